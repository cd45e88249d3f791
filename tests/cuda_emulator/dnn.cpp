// cuDNN: convolutions through its graph interface, pooling, reductions and the like through the older one.
// Declared here, since its headers need not be installed; numbers are those of cudnn_graph.h of version 9.
#include "patterns.hpp"

#define API extern "C" __attribute__((visibility("default"))) int

using emu::Access;

namespace {

constexpr int kBadParam = 2000, kNotSupported = 3000, kExecutionFailed = 5000;

struct Handle {
    emu::Stream* stream;
    emu::Held memory{128 << 10};
};

int run(const Handle* handle, const char* name, const std::vector<Access>& accesses, uint64_t salt = 0) {
    return emu::operate(handle->stream, name, salt, accesses) ? kExecutionFailed : 0;
}

// Attributes as the bytes that were set.
struct Descriptor {
    int type;
    std::map<int, std::pair<int64_t, std::string>> attributes;

    template <class Value>
    std::vector<Value> get(int name) const {
        auto found = attributes.find(name);
        if (found == attributes.end()) return {};
        std::vector<Value> values(found->second.first);
        memcpy(values.data(), found->second.second.data(), std::min(values.size() * sizeof(Value), found->second.second.size()));
        return values;
    }
    Descriptor* child(int name) const {
        std::vector<Descriptor*> values = get<Descriptor*>(name);
        return values.empty() ? nullptr : values[0];
    }
    template <class Value>
    void put(int name, Value value) {
        attributes[name] = {1, std::string(reinterpret_cast<char*>(&value), sizeof value)};
    }
};

enum Types { kEngine = 2, kForward = 10, kBackwardFilter = 11, kBackwardData = 12, kPointwise = 13 };
enum Names {
    kHeuristicMode = 200, kHeuristicGraph = 201, kHeuristicResults = 202, kConfigEngine = 300, kConfigWorkspace = 303, kConfigSharedMemory = 304, kPlanConfig = 401, kPlanWorkspace = 402,
    kGraphOperations = 801, kTensorDimensions = 902, kTensorId = 906, kPackIds = 1000, kPackPointers = 1001,
    kPackWorkspace = 1003, kEngineGraph = 1300, kEngineIndex = 1301
};

// Which attributes of an operation are tensors that it reads, and which it writes.
struct Form {
    const char* name;
    std::vector<int> reads;
    int write;
};
const std::map<int, Form> kForms{
    {kForward, {"cudnn forward convolution", {704, 703}, 705}},
    {kBackwardData, {"cudnn data gradient", {711, 709}, 710}},
    {kBackwardFilter, {"cudnn filter gradient", {717, 716}, 715}},
    {kPointwise, {"cudnn pointwise", {751, 752}, 753}},
};

bool convolves(const Descriptor* graph) {
    for (Descriptor* operation : graph->get<Descriptor*>(kGraphOperations))
        if (operation->type != kPointwise) return true;
    return false;
}

constexpr int32_t kFallback = 2;     // heuristic mode that lists engines of last resort
constexpr int64_t kFavourite = 1;  // index of the engine with the large workspace

int64_t workspace_of(const Descriptor* engine) {
    static std::map<const Descriptor*, int> graphs;  // in the order of their first question
    const Descriptor* graph = engine->child(kEngineGraph);
    if (!convolves(graph)) return 0;
    if (engine->get<int64_t>(kEngineIndex)[0] != kFavourite) return 4096;
    emu::World& world = emu::World::get();
    int place = graphs.try_emplace(graph, static_cast<int>(graphs.size())).first->second % world.workspace_steps;
    return world.workspace * (place + 1) / world.workspace_steps;
}

// Descriptors live as long as the process: users destroy them while others still refer to them.
Descriptor* create(int type) { return new Descriptor{type, {}}; }

size_t size_of(int type) {
    switch (type) {
        case 0: case 3: case 5: case 6: case 15: return 8;  // handle, int64, double, pointer, descriptor
        case 2: case 24: return 1;                          // boolean, char
        case 26: return 16;                                 // fraction
        default: return 4;                                  // int32, float and all enumerations
    }
}

}  // namespace

API cudnnCreate(Handle** handle) { return *handle = new Handle{emu::World::get().standard_stream()}, 0; }
API cudnnDestroy(Handle* handle) { return delete handle, 0; }
API cudnnSetStream(Handle* handle, emu::Stream* stream) { return handle->stream = emu::known(stream), 0; }
API cudnnGetStream(Handle* handle, emu::Stream** stream) { return *stream = handle->stream, 0; }
extern "C" size_t cudnnGetVersion() { return 91400; }
extern "C" size_t cudnnGetCudartVersion() { return 13000; }
extern "C" const char* cudnnGetErrorString(int) { return "emulated"; }
extern "C" void cudnnGetLastErrorString(char* text, size_t size) { strncpy(text, "emulated", size); }

API cudnnBackendCreateDescriptor(int type, Descriptor** made) { return *made = create(type), 0; }
API cudnnBackendDestroyDescriptor(Descriptor*) { return 0; }
API cudnnBackendFinalize(Descriptor*) { return 0; }
API cudnnBackendSetAttribute(Descriptor* descriptor, int name, int type, int64_t count, const void* values) {
    descriptor->attributes[name] = {count, std::string(static_cast<const char*>(values), count * size_of(type))};
    return 0;
}
API cudnnBackendGetAttribute(Descriptor* descriptor, int name, int type, int64_t room, int64_t* count, void* values) {
    auto* children = static_cast<Descriptor**>(values);
    if (name == kHeuristicResults) {
        Descriptor* graph = descriptor->child(kHeuristicGraph);
        std::vector<int64_t> offered{0};
        bool fallback = descriptor->get<int32_t>(kHeuristicMode)[0] == kFallback;
        if (emu::World::get().workspace && convolves(graph) && !fallback) offered.insert(offered.begin(), kFavourite);
        *count = static_cast<int64_t>(offered.size());
        for (int64_t i = 0; children && i < std::min(room, *count); i++) {
            Descriptor* engine = create(kEngine);
            engine->put(kEngineGraph, graph);
            engine->put(kEngineIndex, offered[i]);
            children[i]->put(kConfigEngine, engine);
        }
    } else if (name == kConfigEngine) {
        *count = 1;
        if (room && children) children[0]->attributes = descriptor->child(kConfigEngine)->attributes;
    } else if (name == kPlanWorkspace) {
        if (count) *count = 1;
        *static_cast<int64_t*>(values) = workspace_of(descriptor->child(kPlanConfig)->child(kConfigEngine));
    } else if (name == kConfigWorkspace) {
        if (count) *count = 1;
        *static_cast<int64_t*>(values) = workspace_of(descriptor->child(kConfigEngine));
    } else if (name == kConfigSharedMemory) {
        if (count) *count = 1;
        *static_cast<int32_t*>(values) = 0;
    } else {
        auto found = descriptor->attributes.find(name);
        int64_t there = found == descriptor->attributes.end() ? 0 : found->second.first;
        if (count) *count = there;
        if (values && there) memcpy(values, found->second.second.data(), std::min(room, there) * size_of(type));
    }
    return 0;
}
API cudnnBackendExecute(Handle* handle, Descriptor* plan, Descriptor* pack) {
    std::map<int64_t, void*> pointers;
    std::vector<int64_t> ids = pack->get<int64_t>(kPackIds);
    std::vector<void*> values = pack->get<void*>(kPackPointers);
    for (size_t i = 0; i < ids.size(); i++) pointers[ids[i]] = values[i];
    const Descriptor* graph = plan->child(kPlanConfig)->child(kConfigEngine)->child(kEngineGraph);
    std::vector<void*> scratch = pack->get<void*>(kPackWorkspace);
    for (const Descriptor* operation : graph->get<Descriptor*>(kGraphOperations)) {
        auto form = kForms.find(operation->type);
        if (form == kForms.end()) return kNotSupported;
        std::vector<Access> accesses;
        uint64_t salt = 0;
        auto add = [&](int name, bool write) {
            const Descriptor* tensor = operation->child(name);
            if (!tensor) return;
            for (int64_t size : tensor->get<int64_t>(kTensorDimensions)) salt = emu::mix(salt ^ size);
            auto found = pointers.find(tensor->get<int64_t>(kTensorId)[0]);
            if (found != pointers.end()) accesses.push_back({found->second, write});  // else it is virtual
        };
        for (int name : form->second.reads) add(name, false);
        add(form->second.write, true);
        if (!scratch.empty() && scratch[0] && operation->type != kPointwise) accesses.push_back({scratch[0], true});
        int status = run(handle, form->second.name, accesses, salt);
        if (status) return status;
    }
    return 0;
}

API cudnnPoolingForward(Handle* handle, void*, const void*, void*, const void* x, const void*, void*, void* y) {
    return run(handle, "cudnnPoolingForward", {{x, false}, {y, true}});
}
API cudnnSoftmaxForward(Handle* handle, int, int, const void*, void*, const void* x, const void*, void*, void* y) {
    return run(handle, "cudnnSoftmaxForward", {{x, false}, {y, true}});
}
API cudnnActivationForward(Handle* handle, void*, const void*, void*, const void* x, const void*, void*, void* y) {
    return run(handle, "cudnnActivationForward", {{x, false}, {y, true}});
}
API cudnnReduceTensor(Handle* handle, void*, void*, size_t, void* scratch, size_t, const void*, void*, const void* a,
                      const void*, void*, void* c) {
    return run(handle, "cudnnReduceTensor", {{a, false}, {c, true}, {scratch, true}});
}
API cudnnBatchNormalizationForwardInference(Handle* handle, int, const void*, const void*, void*, const void* x, void*, void* y,
                                            void*, const void* scale, const void* bias, const void* mean, const void* variance,
                                            double) {
    return run(handle, "cudnnBatchNormalizationForwardInference",
               {{x, false}, {scale, false}, {bias, false}, {mean, false}, {variance, false}, {y, true}});
}
API cudnnConvolutionForward(Handle* handle, const void*, void*, const void* x, void*, const void* w, void*, int, void* scratch,
                            size_t, const void*, void*, void* y) {
    return run(handle, "cudnnConvolutionForward", {{x, false}, {w, false}, {y, true}, {scratch, true}});
}
API cudnnAddTensor(Handle* handle, const void*, void*, const void* a, const void*, void*, void* c) {
    return run(handle, "cudnnAddTensor", {{a, false}, {c, false}, {c, true}});
}
API cudnnGetReductionWorkspaceSize(Handle*, void*, void*, void*, size_t* size) { return *size = 4096, 0; }
API cudnnGetReductionIndicesSize(Handle*, void*, void*, void*, size_t* size) { return *size = 0, 0; }
API cudnnGetConvolutionForwardWorkspaceSize(Handle*, void*, void*, void*, void*, int, size_t* size) { return *size = 4096, 0; }

// Descriptors of the older interface: what they hold is of no concern here.
#define CREATE(name) \
    API cudnnCreate##name##Descriptor(Descriptor** made) { return *made = create(-1), 0; } \
    API cudnnDestroy##name##Descriptor(Descriptor* made) { return delete made, 0; }
CREATE(Activation) CREATE(Convolution) CREATE(Dropout) CREATE(Filter) CREATE(LRN) CREATE(Pooling)
CREATE(ReduceTensor) CREATE(RNN) CREATE(RNNData) CREATE(Tensor)
#define ACCEPT(name) \
    API name() { return 0; }
ACCEPT(cudnnSetActivationDescriptor) ACCEPT(cudnnSetConvolutionGroupCount) ACCEPT(cudnnSetConvolutionMathType)
ACCEPT(cudnnSetConvolutionNdDescriptor) ACCEPT(cudnnSetFilterNdDescriptor) ACCEPT(cudnnSetPoolingNdDescriptor)
ACCEPT(cudnnSetReduceTensorDescriptor) ACCEPT(cudnnSetTensorNdDescriptor) ACCEPT(cudnnDeriveBNTensorDescriptor)
