// What tests tell the emulated card and ask of it.
#include <dlfcn.h>

#include <sstream>

#include "patterns.hpp"

#define API extern "C" __attribute__((visibility("default")))

using emu::Range;
using emu::World;

// `text` tells of each operator on a line: its type, whether it is a view, how many ranges it reads and writes.
API void emu_bind(const char* text, const Range* ranges, uint64_t ns, const char* site) {
    std::vector<emu::Operator> operators;
    std::istringstream lines(text);
    emu::Operator op;
    size_t reads, writes;
    while (lines >> op.type >> op.view >> reads >> writes) {
        op.reads.assign(ranges, ranges + reads);
        op.writes.assign(ranges + reads, ranges + reads + writes);
        ranges += reads + writes;
        operators.push_back(op);
    }
    emu::bind(std::move(operators), ns, site);
}
API void emu_finish() { emu::finish(); }

API void emu_reset(uint64_t seed, size_t device_limit, size_t pinned_limit) {
    World::get().reset(seed, device_limit, pinned_limit);
}
API void emu_copies(uint64_t latency_ns, uint64_t bandwidth) {
    World::get().latency_ns = latency_ns;
    World::get().bandwidth = bandwidth;
}
API void emu_present(int present) { World::get().present = present; }
API void emu_workspace(size_t size, int steps) { World::get().workspace = size, World::get().workspace_steps = steps; }
API void emu_fail(const char* name, int nth) { World::get().fail(name, nth); }
API int emu_calls(const char* name) { return World::get().calls[name]; }
API size_t emu_peak(int library) { return World::get().peak[library]; }
API uint64_t emu_time() { return World::get().host_time; }
API size_t emu_live() { return World::get().owned(); }
API size_t emu_library_live() { return World::get().live(true); }

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
