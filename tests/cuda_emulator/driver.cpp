// The driver functions that planc calls, over the emulated card.
#include "patterns.hpp"

using emu::Event;
using emu::Executable;
using emu::Graph;
using emu::Kind;
using emu::Node;
using emu::Stream;
using emu::Work;
using emu::World;

#define API extern "C" __attribute__((visibility("default"))) CUresult
#define REFUSE(name, error) \
    if (world().refuses(name)) return error

static World& world() { return World::get(); }
static Stream* stream_of(CUstream handle) { return reinterpret_cast<Stream*>(handle); }
static Event* event_of(CUevent handle) { return reinterpret_cast<Event*>(handle); }
static Node* node_of(CUgraphNode handle) { return reinterpret_cast<Node*>(handle); }
static std::shared_ptr<Graph> graph_of(CUgraph handle) { return world().graphs.at(handle); }

API cuInit(unsigned) { return world().present ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
API cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
API cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
API cuDeviceGet(CUdevice* device, int index) { return *device = index, index ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
API cuDeviceGetName(char* name, int length, CUdevice) { return strncpy(name, "emulated card", length), CUDA_SUCCESS; }
API cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
    *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : 1;
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    REFUSE("context", CUDA_ERROR_OUT_OF_MEMORY);
    world().contexts++;
    return *context = reinterpret_cast<CUcontext>(&world()), CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRelease(CUdevice) { return world().contexts--, CUDA_SUCCESS; }
API cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
API cuMemGetInfo(size_t* free, size_t* total) {
    *total = world().device_limit;
    return *free = *total - world().device_live, CUDA_SUCCESS;
}
API cuGetErrorString(CUresult error, const char** text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : error == CUDA_SUCCESS ? "no error" : "emulated failure";
    return CUDA_SUCCESS;
}

API cuMemAlloc(CUdeviceptr* at, size_t size) {
    REFUSE("alloc", CUDA_ERROR_OUT_OF_MEMORY);
    uintptr_t address = 0;
    CUresult result = world().allocate(size, true, &address);
    return *at = address, result;
}
API cuMemFree(CUdeviceptr at) { return world().release(at, true); }
API cuMemHostAlloc(void** at, size_t size, unsigned) {
    REFUSE("pinned", CUDA_ERROR_OUT_OF_MEMORY);
    return world().allocate(size, false, reinterpret_cast<uintptr_t*>(at));
}
API cuMemFreeHost(void* at) { return world().release(reinterpret_cast<uintptr_t>(at), false); }

API cuStreamCreate(CUstream* stream, unsigned) {
    REFUSE("stream", CUDA_ERROR_OUT_OF_MEMORY);
    return *stream = reinterpret_cast<CUstream>(world().create_stream()), CUDA_SUCCESS;
}
API cuStreamDestroy(CUstream handle) {
    Stream* stream = stream_of(handle);
    CUresult result = world().synchronize(stream);
    world().streams.erase(stream);
    delete stream;
    return result;
}
API cuStreamSynchronize(CUstream stream) {
    REFUSE("synchronize", CUDA_ERROR_LAUNCH_FAILED);
    return world().synchronize(stream_of(stream));
}
API cuEventCreate(CUevent* event, unsigned) {
    REFUSE("event", CUDA_ERROR_OUT_OF_MEMORY);
    auto* made = new Event;
    made->foreign = world().foreign;
    world().events.insert(made);
    return *event = reinterpret_cast<CUevent>(made), CUDA_SUCCESS;
}
API cuEventDestroy(CUevent event) {
    world().events.erase(event_of(event));
    delete event_of(event);
    return CUDA_SUCCESS;
}
API cuEventRecord(CUevent event, CUstream stream) {
    REFUSE("record", CUDA_ERROR_LAUNCH_FAILED);
    return world().record(stream_of(stream), event_of(event));
}
API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    REFUSE("wait", CUDA_ERROR_LAUNCH_FAILED);
    return world().wait(stream_of(stream), event_of(event));
}
API cuEventElapsedTime(float* ms, CUevent start, CUevent end) {
    return *ms = (event_of(end)->record->end - event_of(start)->record->end) / 1e6f, CUDA_SUCCESS;
}

static CUresult copy(Kind kind, uintptr_t to, uintptr_t from, size_t size, Stream* stream) {
    bool pageable_source = kind == Kind::copy_in && !world().find(from, size);
    bool pageable_target = kind == Kind::copy_out && !world().find(to, size);
    Work work{kind, {}, {{from, size}}, {{to, size}}, kind == Kind::copy_device ? 0 : world().copy_ns(size), ""};
    work.site = std::string(emu::kNames[static_cast<int>(kind)]) + " " + world().name(from) + " -> " + world().name(to) + " " +
                std::to_string(size);
    if (pageable_source) {  // the driver stages pageable bytes before it returns
        auto staged = std::make_shared<std::string>(reinterpret_cast<char*>(from), size);
        work.effect = [staged, to] {
            memcpy(reinterpret_cast<void*>(to), staged->data(), staged->size());
            emu::wrote(to, staged->size());
        };
        work.reads.clear();
    } else {
        work.effect = [to, from, size] {
            memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), size);
            emu::wrote(to, size);
        };
    }
    if (pageable_target) work.writes.clear();
    emu::queued(to);
    CUresult result = world().enqueue(stream, std::move(work));
    return result == CUDA_SUCCESS && pageable_target ? world().synchronize(stream) : result;
}

API cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream stream) {
    REFUSE("copy", CUDA_ERROR_LAUNCH_FAILED);
    return copy(Kind::copy_out, reinterpret_cast<uintptr_t>(to), from, size, stream_of(stream));
}
API cuMemcpyDtoH(void* to, CUdeviceptr from, size_t size) {
    return copy(Kind::copy_out, reinterpret_cast<uintptr_t>(to), from, size, world().standard_stream());
}
API cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t size) {
    CUresult result = copy(Kind::copy_in, to, reinterpret_cast<uintptr_t>(from), size, world().standard_stream());
    return result == CUDA_SUCCESS ? world().synchronize(world().standard_stream()) : result;
}
API cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
    REFUSE("copy", CUDA_ERROR_LAUNCH_FAILED);
    return copy(Kind::copy_in, to, reinterpret_cast<uintptr_t>(from), size, stream_of(stream));
}
API cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    REFUSE("copy", CUDA_ERROR_LAUNCH_FAILED);
    return copy(Kind::copy_device, to, from, size, stream_of(stream));
}
API cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t size, CUstream stream) {
    Work work{Kind::set, [=] {
                  memset(reinterpret_cast<void*>(at), value, size);
                  emu::wrote(at, size);
              }, {}, {{at, size}}, 0, ""};
    emu::queued(at);
    work.site = "set " + world().name(at) + " " + std::to_string(size);
    return world().enqueue(stream_of(stream), std::move(work));
}
API cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    return world().enqueue(stream_of(stream), Work{Kind::host, [function, data] { function(data); }, {}, {}, 0, "host"});
}

API cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode) {
    REFUSE("capture", CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    Stream* stream = stream_of(handle);
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_shared<Graph>();
    stream->origin = true;
    stream->tips.clear();
    return CUDA_SUCCESS;
}
API cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    std::shared_ptr<Graph> captured;
    CUresult result = world().end_capture(stream_of(stream), &captured);
    *graph = nullptr;
    if (result != CUDA_SUCCESS) return result;
    *graph = reinterpret_cast<CUgraph>(captured.get());
    world().graphs[*graph] = captured;
    return CUDA_SUCCESS;
}
API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
    *status = stream_of(stream)->capture ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

static CUresult listed(const std::vector<Node*>& nodes, CUgraphNode* out, size_t* count) {
    if (out)
        for (size_t i = 0; i < std::min(*count, nodes.size()); i++) out[i] = reinterpret_cast<CUgraphNode>(nodes[i]);
    return *count = nodes.size(), CUDA_SUCCESS;
}
static Graph* owner(Node* node) {
    for (auto& [handle, graph] : world().graphs)
        if (std::count(graph->alive.begin(), graph->alive.end(), node)) return graph.get();
    return nullptr;
}
API cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
    return listed(graph_of(graph)->alive, nodes, count);
}
API cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType* type) {
    Kind kind = node_of(node)->work.kind;
    *type = kind == Kind::kernel ? CU_GRAPH_NODE_TYPE_KERNEL
            : kind == Kind::host ? CU_GRAPH_NODE_TYPE_HOST
                                 : CU_GRAPH_NODE_TYPE_MEMCPY;
    return CUDA_SUCCESS;
}
API cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode* out, CUgraphEdgeData*, size_t* count) {
    return listed(node_of(node)->before, out, count);
}
API cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode* out, CUgraphEdgeData*, size_t* count) {
    return listed(owner(node_of(node))->after(node_of(node)), out, count);
}
API cuGraphAddDependencies(CUgraph, const CUgraphNode* from, const CUgraphNode* to, const CUgraphEdgeData*, size_t count) {
    for (size_t i = 0; i < count; i++) {
        auto& before = node_of(to[i])->before;
        if (std::count(before.begin(), before.end(), node_of(from[i]))) return CUDA_ERROR_INVALID_VALUE;
        before.push_back(node_of(from[i]));
    }
    return CUDA_SUCCESS;
}
API cuGraphDestroyNode(CUgraphNode handle) {
    Node* node = node_of(handle);
    Graph* graph = owner(node);
    graph->alive.erase(std::find(graph->alive.begin(), graph->alive.end(), node));
    for (Node* other : graph->alive)
        other->before.erase(std::remove(other->before.begin(), other->before.end(), node), other->before.end());
    return CUDA_SUCCESS;
}
API cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    REFUSE("instantiate", CUDA_ERROR_OUT_OF_MEMORY);
    auto* made = new Executable{graph_of(graph)};
    world().executables.insert(made);
    return *executable = reinterpret_cast<CUgraphExec>(made), CUDA_SUCCESS;
}
API cuGraphUpload(CUgraphExec, CUstream) { return CUDA_SUCCESS; }
API cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    REFUSE("launch", CUDA_ERROR_LAUNCH_FAILED);
    return world().launch(stream_of(stream), *reinterpret_cast<Executable*>(executable)->graph);
}
API cuGraphExecDestroy(CUgraphExec executable) {
    world().executables.erase(reinterpret_cast<Executable*>(executable));
    delete reinterpret_cast<Executable*>(executable);
    return CUDA_SUCCESS;
}
API cuGraphDestroy(CUgraph graph) { return world().graphs.erase(graph), CUDA_SUCCESS; }
API cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                           const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    return CUDA_ERROR_NOT_SUPPORTED;  // no kernel of the networks asks for it; the provider only needs it to be there
}

// Kernels of planc's own: a module is its text, a function its name and which of its parameters, all of them pointers, it
// writes. What lies behind a pointer is the tensor that it points to, as for the provider's kernels.
struct Module {
    std::string text;
};
struct Written {
    std::string name;
    std::vector<bool> parameters;
};
API cuCtxGetDevice(CUdevice* device) { return *device = 0, CUDA_SUCCESS; }
API cuModuleLoadData(CUmodule* module, const void* image) {
    return *module = reinterpret_cast<CUmodule>(new Module{static_cast<const char*>(image)}), CUDA_SUCCESS;
}
API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    const std::string& text = reinterpret_cast<Module*>(module)->text;
    size_t at = text.find(std::string(" ") + name + "("), end = text.find(')', at);
    if (at == std::string::npos || end == std::string::npos) return CUDA_ERROR_NOT_FOUND;
    auto* found = new Written{name, {}};
    for (size_t from = text.find('(', at) + 1; from < end;) {
        size_t comma = std::min(text.find(',', from), end);
        std::string parameter = text.substr(from, comma - from);
        if (parameter.find('*') == std::string::npos) return CUDA_ERROR_INVALID_VALUE;
        found->parameters.push_back(parameter.find("const ") == std::string::npos);
        from = comma + 1;
    }
    return *function = reinterpret_cast<CUfunction>(found), CUDA_SUCCESS;
}
API cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
API cuLaunchKernel(CUfunction handle, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned shared,
                   CUstream stream, void** arguments, void**) {
    const Written& function = *reinterpret_cast<Written*>(handle);
    std::vector<emu::Access> accesses;
    for (size_t i = 0; i < function.parameters.size(); i++)
        accesses.push_back({*static_cast<void**>(arguments[i]), function.parameters[i]});
    uint64_t salt = 0;
    for (unsigned number : {x, y, z, threads, shared}) salt = emu::mix(salt ^ number);
    return emu::operate(emu::known(stream_of(stream)), function.name, salt, accesses);
}
