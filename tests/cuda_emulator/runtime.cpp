// libcudart over the emulated driver, as far as ONNX Runtime's CUDA provider calls it.
//
// A kernel's name tells the types of its parameters, hence which of them it reads and which it writes.
#include <cuda_runtime_api.h>
#include <cxxabi.h>

#include "patterns.hpp"

#define API extern "C" __attribute__((visibility("default")))


using emu::Access;
using emu::World;

namespace {

// cudaError_t has the driver's numbers where both have the error.
cudaError_t last = cudaSuccess;
struct Library {
    Library() { World::get().foreign = true; }
    ~Library() { World::get().foreign = false; }
};

cudaError_t told(int status) {
    if (status) last = static_cast<cudaError_t>(status == CUDA_ERROR_OUT_OF_MEMORY ? cudaErrorMemoryAllocation : status);
    return status ? last : cudaSuccess;
}

// The default stream is one like others: nothing orders it with them, as for streams that do not block.
CUstream stream_of(cudaStream_t stream) {
    return reinterpret_cast<CUstream>(emu::known(reinterpret_cast<emu::Stream*>(stream)));
}

struct Parameter {
    enum { pointer, pointers, array, scalar, unknown } kind = unknown;
    bool write = false;
    size_t size = 0;
};

struct Function {
    std::string name;
    std::vector<Parameter> parameters;
};

bool ends(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Parameter pointer_to(const std::string& type) {
    return {ends(type, "*") ? Parameter::pointers : Parameter::pointer, !ends(type, "const"), 8};
}

Parameter parse(const std::string& type) {
    static const std::map<std::string, size_t> sizes{
        {"int", 4}, {"unsigned int", 4}, {"long", 8}, {"unsigned long", 8}, {"float", 4}, {"double", 8}, {"bool", 1},
        {"std::pair<unsigned long, unsigned long>", 16}};  // a generator's seed and position
    if (ends(type, "*")) return pointer_to(type.substr(0, type.size() - 1));
    auto found = sizes.find(type);
    if (found != sizes.end()) return {Parameter::scalar, false, found->second};
    const std::string array = "onnxruntime::cuda::TArray<";
    size_t comma = type.rfind(", ");
    if (type.compare(0, array.size(), array) == 0 && comma != std::string::npos && type[comma - 1] == '*') {
        Parameter element = pointer_to(type.substr(array.size(), comma - 1 - array.size()));
        return {Parameter::array, element.write, 0};
    }
    return {};
}

// Splits what stands in the last parentheses of a demangled name at its commas.
std::vector<Parameter> parameters_of(const std::string& name) {
    std::vector<Parameter> found;
    size_t end = name.rfind(')'), at = end;
    if (end == std::string::npos) return found;
    size_t stop = end;
    for (int depth = 0;;) {
        char c = name[at];
        if (c == ')' || c == '>' || c == '}') depth++;
        if (c == '(' || c == '<' || c == '{') depth--;
        if ((c == ',' && depth == 1) || depth == 0) {
            std::string type = name.substr(at + 1, stop - at - 1);
            if (type.size() && type[0] == ' ') type.erase(0, 1);
            if (type.size()) found.insert(found.begin(), parse(type));
            stop = at;
        }
        if (depth == 0 || at == 0) return found;
        at--;
    }
}

std::map<const void*, std::string>& names() {
    static std::map<const void*, std::string> all;
    return all;
}

const Function& function_of(const void* host) {
    static std::map<const void*, Function> known;
    auto found = known.find(host);
    if (found != known.end()) return found->second;
    std::string mangled = names().count(host) ? names()[host] : "unknown kernel";
    int status = 0;
    std::unique_ptr<char, void (*)(void*)> plain(abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), free);
    std::string name = plain ? plain.get() : mangled;
    return known[host] = Function{name, parameters_of(name)};
}

void collect(const Parameter& parameter, void* argument, std::vector<Access>& accesses, uint64_t& salt) {
    const void* const* pointer = static_cast<const void* const*>(argument);
    if (parameter.kind == Parameter::scalar) {
        for (size_t at = 0; at < parameter.size; at += 8) {
            uint64_t value = 0;
            memcpy(&value, static_cast<const char*>(argument) + at, std::min<size_t>(8, parameter.size - at));
            salt = emu::mix(salt ^ value);
        }
    } else if (parameter.kind == Parameter::pointer) {
        accesses.push_back({*pointer, parameter.write});
    } else if (parameter.kind == Parameter::array) {  // TArray: an int, then the elements
        for (int i = 0; i < *static_cast<int*>(argument); i++) accesses.push_back({pointer[1 + i], parameter.write});
    }
}

cudaError_t launch(const void* host, dim3 grid, dim3 block, void** arguments, cudaStream_t stream) {
    const Function& function = function_of(host);
    std::vector<Access> accesses;
    uint64_t salt = emu::mix(grid.x + (uint64_t{grid.y} << 20) + (uint64_t{grid.z} << 40)) ^ block.x;
    for (size_t i = 0; i < function.parameters.size(); i++) collect(function.parameters[i], arguments[i], accesses, salt);
    return told(emu::operate(reinterpret_cast<emu::Stream*>(stream_of(stream)), function.name, salt, accesses));
}

}  // namespace

// Kernels.
static thread_local struct {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
} configuration;

API void** __cudaRegisterFatBinary(void*) { return nullptr; }
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
    names()[host] = name;
}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    configuration = {grid, block, shared, stream};
    return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    *grid = configuration.grid;
    *block = configuration.block;
    *shared = configuration.shared;
    *static_cast<cudaStream_t*>(stream) = configuration.stream;
    return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
    return cudaSuccess;
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t stream) {
    return launch(kernel, grid, block, arguments, stream);
}
cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t stream) {
    return launch(host, grid, block, arguments, stream);
}
cudaError_t cudaLaunchCooperativeKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t stream) {
    return launch(host, grid, block, arguments, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void** arguments) {
    return launch(host, config->gridDim, config->blockDim, arguments, config->stream);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return told(cuLaunchHostFunc(stream_of(stream), function, data));
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
    return *blocks = 2, cudaSuccess;
}

// The card.
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return told(cuDriverGetVersion(version)); }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    *value = which == cudaDevAttrComputeCapabilityMajor ? 9 : which == cudaDevAttrComputeCapabilityMinor ? 0 : 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* card, int) {
    *card = {};
    strcpy(card->name, "emulated card");
    card->major = 9;
    card->multiProcessorCount = 132;
    card->sharedMemPerBlock = 48 << 10;
    card->sharedMemPerBlockOptin = card->sharedMemPerMultiprocessor = 227 << 10;
    card->maxThreadsPerBlock = card->maxThreadsDim[0] = card->maxThreadsDim[1] = 1024;
    card->maxThreadsDim[2] = 64;
    card->warpSize = 32;
    card->regsPerBlock = card->regsPerMultiprocessor = 65536;
    card->maxThreadsPerMultiProcessor = 2048;
    card->totalGlobalMem = World::get().device_limit;
    card->maxGridSize[0] = 0x7fffffff;
    card->maxGridSize[1] = card->maxGridSize[2] = 65535;
    card->concurrentKernels = 1;
    card->asyncEngineCount = 3;
    card->textureAlignment = 512;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    for (emu::Stream* stream : World::get().streams) {
        CUresult status = World::get().synchronize(stream);
        if (status) return told(status);
    }
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return told(cuMemGetInfo(free, total)); }
cudaError_t cudaGetLastError() {
    cudaError_t error = last;
    last = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError() { return last; }
const char* cudaGetErrorName(cudaError_t) { return "emulated"; }
const char* cudaGetErrorString(cudaError_t error) {
    const char* text = "unknown";
    cuGetErrorString(static_cast<CUresult>(error), &text);
    return text;
}

// Memory.
cudaError_t cudaMalloc(void** at, size_t size) {
    Library calls;
    return told(cuMemAlloc(reinterpret_cast<CUdeviceptr*>(at), size));
}
cudaError_t cudaFree(void* at) { return at ? told(cuMemFree(reinterpret_cast<CUdeviceptr>(at))) : cudaSuccess; }
cudaError_t cudaHostAlloc(void** at, size_t size, unsigned flags) {
    Library calls;
    return told(cuMemHostAlloc(at, size, flags));
}
cudaError_t cudaMallocHost(void** at, size_t size) { return cudaHostAlloc(at, size, 0); }
cudaError_t cudaFreeHost(void* at) { return told(cuMemFreeHost(at)); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
    *attributes = {};
    emu::Allocation* found = World::get().find(reinterpret_cast<uintptr_t>(at), 1);
    attributes->type = !found ? cudaMemoryTypeUnregistered : found->device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
    auto target = reinterpret_cast<CUdeviceptr>(to), source = reinterpret_cast<CUdeviceptr>(from);
    if (size == 0) return cudaSuccess;
    if (kind == cudaMemcpyHostToDevice) return told(cuMemcpyHtoDAsync(target, from, size, stream_of(stream)));
    if (kind == cudaMemcpyDeviceToHost) return told(cuMemcpyDtoHAsync(to, source, size, stream_of(stream)));
    if (kind == cudaMemcpyDeviceToDevice) return told(cuMemcpyDtoDAsync(target, source, size, stream_of(stream)));
    return told(CUDA_ERROR_INVALID_VALUE);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
    cudaError_t error = cudaMemcpyAsync(to, from, size, kind, nullptr);
    return error ? error : told(cuStreamSynchronize(stream_of(nullptr)));
}
cudaError_t cudaMemsetAsync(void* at, int value, size_t size, cudaStream_t stream) {
    return size ? told(cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(at), value, size, stream_of(stream))) : cudaSuccess;
}
cudaError_t cudaMemset(void* at, int value, size_t size) {
    cudaError_t error = cudaMemsetAsync(at, value, size, nullptr);
    return error ? error : told(cuStreamSynchronize(stream_of(nullptr)));
}

// Streams and events.
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    Library calls;
    return told(cuStreamCreate(stream, flags));
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return told(cuStreamDestroy(stream)); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return told(cuStreamSynchronize(stream_of(stream))); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return told(cuStreamWaitEvent(stream_of(stream), event, flags));
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return told(cuStreamIsCapturing(stream_of(stream), reinterpret_cast<CUstreamCaptureStatus*>(status)));
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    Library calls;
    return told(cuEventCreate(event, flags));
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return told(cuEventDestroy(event)); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return told(cuEventRecord(event, stream_of(stream))); }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    return told(cuEventRecord(event, stream_of(stream)));
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
    return told(cuEventElapsedTime(ms, start, end));
}
