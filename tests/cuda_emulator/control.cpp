// What tests tell the emulated card and ask of it, and the kernels: operators that hash what they read into patterns.
#include <dlfcn.h>

#include "world.hpp"

#define API extern "C" __attribute__((visibility("default")))

using emu::Kind;
using emu::Range;
using emu::Work;
using emu::World;

// One operator of a segment: the bytes it reads and writes, and a number that stands for its type and attributes.
// A view (reads and writes one address) has `identity` 0 and leaves its bytes alone.
struct Operator {
    uint64_t identity;
    uint32_t reads, writes;
};

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t digest(const Range& range) {
    uint64_t hash = mix(range.size);
    auto* bytes = reinterpret_cast<const unsigned char*>(range.at);
    for (size_t i = 0; i < range.size; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, std::min<size_t>(8, range.size - i));
        hash = (hash ^ word) * 0x100000001b3ull + (hash >> 29);
    }
    return mix(hash);
}

static void fill(const Range& range, uint64_t hash) {
    auto* bytes = reinterpret_cast<unsigned char*>(range.at);
    for (size_t i = 0; i < range.size; i += 8) {
        uint64_t word = mix(hash + i);
        memcpy(bytes + i, &word, std::min<size_t>(8, range.size - i));
    }
}

static void compute(const std::vector<Operator>& operators, const std::vector<Range>& ranges) {
    size_t at = 0;
    for (const Operator& op : operators) {
        uint64_t hash = op.identity;
        for (uint32_t i = 0; i < op.reads; i++) hash = mix(hash ^ digest(ranges[at + i]));
        at += op.reads;
        for (uint32_t i = 0; i < op.writes; i++)
            if (op.identity) fill(ranges[at + i], mix(hash + i));
        at += op.writes;
    }
}

API int emu_kernel(void* stream, const Operator* operators, size_t count, const Range* ranges, size_t total, uint64_t ns,
                   const char* site) {
    if (World::get().refuses("kernel")) return CUDA_ERROR_LAUNCH_FAILED;
    std::vector<Operator> ops(operators, operators + count);
    std::vector<Range> all(ranges, ranges + total);
    Work work{Kind::kernel, [ops, all] { compute(ops, all); }, {}, {}, ns, site};
    std::set<uintptr_t> made;
    size_t at = 0;
    for (const Operator& op : ops) {  // what the segment made itself is not read from outside
        for (uint32_t i = 0; i < op.reads; i++, at++)
            if (!made.count(all[at].at)) work.reads.push_back(all[at]);
        for (uint32_t i = 0; i < op.writes; i++, at++)
            if (op.identity) {
                made.insert(all[at].at);
                work.writes.push_back(all[at]);
            }
    }
    return World::get().enqueue(static_cast<emu::Stream*>(stream), std::move(work));
}

// The operators at once, in plain memory: what a segment must come to.
API void emu_compute(const Operator* operators, size_t count, const Range* ranges, size_t total) {
    compute(std::vector<Operator>(operators, operators + count), std::vector<Range>(ranges, ranges + total));
}

API void emu_reset(uint64_t seed, size_t device_limit, size_t pinned_limit) {
    World::get().reset(seed, device_limit, pinned_limit);
}
API void emu_copies(uint64_t latency_ns, uint64_t bandwidth) {
    World::get().latency_ns = latency_ns;
    World::get().bandwidth = bandwidth;
}
API void emu_fail(const char* name, int nth) { World::get().fail(name, nth); }
API int emu_calls(const char* name) { return World::get().calls[name]; }
API size_t emu_peak() { return World::get().device_peak; }
API uint64_t emu_time() { return World::get().host_time; }
API size_t emu_live() {
    World& world = World::get();
    return world.device_live + world.pinned_live + world.streams.size() + world.events.size() + world.executables.size() +
           world.graphs.size() + static_cast<size_t>(world.contexts);
}

static const char* lines(const std::string& text) {
    static std::string kept;
    kept = text;
    return kept.c_str();
}
API const char* emu_problems() {
    std::string text;
    for (const std::string& problem : World::get().problems()) text += problem + "\n";
    return lines(text);
}
API const char* emu_trace() {
    std::string text;
    for (const std::string& site : World::get().trace) text += site + "\n";
    World::get().trace.clear();
    return lines(text);
}

// cuda-bindings asks for every function by its plain name; the newest form is meant.
API CUresult cuGetProcAddress_v2(const char* symbol, void** found, int, cuuint64_t, CUdriverProcAddressQueryResult* status) {
    static void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *found = nullptr;
    for (const char* suffix : {"_v4", "_v3", "_v2", ""})
        if ((*found = dlsym(self, (std::string(symbol) + suffix).c_str()))) break;
    if (status) *status = *found ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
