// NCCL of one rank whose peers have zeros and stay away: an exchange reads and writes its bytes and leaves them as they
// are, which is what its function says. When it does so, and beside what, is watched as for any other work.
#include "patterns.hpp"

#define API extern "C" __attribute__((visibility("default"))) int

using emu::Kind;
using emu::Work;
using emu::World;

namespace {

constexpr size_t kSizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};  // bytes by ncclDataType_t

int queue(const char* name, const void* from, void* to, size_t count, int type, emu::Stream* stream) {
    if (World::get().refuses("exchange")) return 1;  // ncclUnhandledCudaError
    uintptr_t source = reinterpret_cast<uintptr_t>(from), target = reinterpret_cast<uintptr_t>(to);
    size_t size = count * kSizes[type];
    Work work{Kind::kernel, [=] {
                  memmove(reinterpret_cast<void*>(target), reinterpret_cast<void*>(source), size);
                  emu::wrote(target, size);
              }, {{source, size}}, {{target, size}}, World::get().copy_ns(size), ""};
    work.site = std::string(name) + " " + World::get().name(target) + " " + std::to_string(size);
    emu::queued(target);
    return World::get().enqueue(emu::known(stream), std::move(work)) == CUDA_SUCCESS ? 0 : 1;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* ncclGetErrorString(int) { return "emulated failure"; }
API ncclGetUniqueId(char* name) { return memset(name, 7, 128), 0; }
struct Name {
    char bytes[128];
};
API ncclCommInitRank(void** communicator, int, Name, int) { return *communicator = &World::get(), 0; }
API ncclCommAbort(void*) { return 0; }
API ncclCommDestroy(void*) { return 0; }
API ncclGroupStart() { return 0; }
API ncclGroupEnd() { return 0; }
API ncclAllReduce(const void* from, void* to, size_t count, int type, int, void*, emu::Stream* stream) {
    return queue("all-reduce", from, to, count, type, stream);
}
API ncclReduce(const void* from, void* to, size_t count, int type, int, int, void*, emu::Stream* stream) {
    return queue("reduce", from, to, count, type, stream);
}
API ncclBroadcast(const void* from, void* to, size_t count, int type, int, void*, emu::Stream* stream) {
    return queue("broadcast", from, to, count, type, stream);
}
