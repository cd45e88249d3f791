// cuBLAS and cuBLASLt: matrix products as emulated kernels. Declared here, since their headers need not be installed.
#include "patterns.hpp"

#define API extern "C" __attribute__((visibility("default"))) int

using emu::Access;

namespace {

struct Handle {
    emu::Stream* stream;
    int math = 0;
    emu::Held memory{64 << 10};
};

int product(const Handle* handle, const char* name, std::vector<int> shape, const void* a, const void* b, bool reads_c, void* c) {
    uint64_t salt = 0;
    for (int size : shape) salt = emu::mix(salt ^ static_cast<unsigned>(size));
    std::vector<Access> accesses{{a, false}, {b, false}};
    if (reads_c) accesses.push_back({c, false});
    accesses.push_back({c, true});
    return emu::operate(handle->stream, name, salt, accesses) ? 13 : 0;  // CUBLAS_STATUS_EXECUTION_FAILED
}

template <class Number>
bool set(const Number* scale) {
    return *scale != Number{};
}

// A factor of computation type 64 (half precision) has two bytes, any other four or more.
bool set(const void* scale, int compute) {
    return compute == 64 ? set(static_cast<const uint16_t*>(scale)) : set(static_cast<const uint32_t*>(scale));
}

}  // namespace

API cublasCreate_v2(Handle** handle) { return *handle = new Handle{emu::World::get().standard_stream()}, 0; }
API cublasDestroy_v2(Handle* handle) { return delete handle, 0; }
API cublasSetStream_v2(Handle* handle, emu::Stream* stream) { return handle->stream = emu::known(stream), 0; }
API cublasSetMathMode(Handle* handle, int mode) { return handle->math = mode, 0; }
API cublasGetMathMode(Handle* handle, int* mode) { return *mode = handle->math, 0; }
extern "C" const char* cublasGetStatusName(int) { return "emulated"; }
extern "C" const char* cublasGetStatusString(int) { return "emulated"; }
extern "C" size_t cublasLtGetVersion() { return 130000; }

API cublasSgemm_v2(Handle* handle, int ta, int tb, int m, int n, int k, const float*, const float* a, int, const float* b, int,
                   const float* beta, float* c, int) {
    return product(handle, "cublasSgemm", {ta, tb, m, n, k}, a, b, set(beta), c);
}
API cublasDgemm_v2(Handle* handle, int ta, int tb, int m, int n, int k, const double*, const double* a, int, const double* b,
                   int, const double* beta, double* c, int) {
    return product(handle, "cublasDgemm", {ta, tb, m, n, k}, a, b, set(beta), c);
}
API cublasGemmEx(Handle* handle, int ta, int tb, int m, int n, int k, const void*, const void* a, int, int, const void* b, int,
                 int, const void* beta, void* c, int, int, int compute, int) {
    return product(handle, "cublasGemmEx", {ta, tb, m, n, k}, a, b, set(beta, compute), c);
}
API cublasSgemmStridedBatched(Handle* handle, int ta, int tb, int m, int n, int k, const float*, const float* a, int, long long,
                              const float* b, int, long long, const float* beta, float* c, int, long long, int batch) {
    return product(handle, "cublasSgemmStridedBatched", {ta, tb, m, n, k, batch}, a, b, set(beta), c);
}
API cublasDgemmStridedBatched(Handle* handle, int ta, int tb, int m, int n, int k, const double*, const double* a, int,
                              long long, const double* b, int, long long, const double* beta, double* c, int, long long,
                              int batch) {
    return product(handle, "cublasDgemmStridedBatched", {ta, tb, m, n, k, batch}, a, b, set(beta), c);
}
API cublasGemmStridedBatchedEx(Handle* handle, int ta, int tb, int m, int n, int k, const void*, const void* a, int, int,
                               long long, const void* b, int, int, long long, const void* beta, void* c, int, int, long long,
                               int batch, int compute, int) {
    return product(handle, "cublasGemmStridedBatchedEx", {ta, tb, m, n, k, batch}, a, b, set(beta, compute), c);
}
API cublasSgeam(Handle* handle, int ta, int tb, int m, int n, const float*, const float* a, int, const float* beta,
                const float* b, int, float* c, int) {
    return product(handle, "cublasSgeam", {ta, tb, m, n}, a, set(beta) ? b : nullptr, false, c);
}
API cublasDgeam(Handle* handle, int ta, int tb, int m, int n, const double*, const double* a, int, const double* beta,
                const double* b, int, double* c, int) {
    return product(handle, "cublasDgeam", {ta, tb, m, n}, a, set(beta) ? b : nullptr, false, c);
}
API cublasScopy_v2(Handle* handle, int n, const float* x, int step, float* y, int) {
    return product(handle, "cublasScopy", {n, step}, x, nullptr, false, y);
}
API cublasLtCreate(Handle** handle) { return *handle = new Handle{nullptr}, 0; }
API cublasLtDestroy(Handle* handle) { return delete handle, 0; }

// Not called by the operators that planc's graphs are made of: CUBLAS_STATUS_NOT_SUPPORTED.
#define UNSUPPORTED(name) \
    API name() { return 15; }
UNSUPPORTED(cublasSgemmBatched)
UNSUPPORTED(cublasDgemmBatched)
UNSUPPORTED(cublasGemmBatchedEx)
UNSUPPORTED(cublasSgetrfBatched)
UNSUPPORTED(cublasDgetrfBatched)
UNSUPPORTED(cublasSgetriBatched)
UNSUPPORTED(cublasDgetriBatched)
UNSUPPORTED(cublasSscal_v2)
UNSUPPORTED(cublasLtMatmul)
UNSUPPORTED(cublasLtMatmulAlgoConfigSetAttribute)
UNSUPPORTED(cublasLtMatmulAlgoGetHeuristic)
UNSUPPORTED(cublasLtMatmulAlgoInit)
UNSUPPORTED(cublasLtMatmulDescCreate)
UNSUPPORTED(cublasLtMatmulDescDestroy)
UNSUPPORTED(cublasLtMatmulDescSetAttribute)
UNSUPPORTED(cublasLtMatmulPreferenceCreate)
UNSUPPORTED(cublasLtMatmulPreferenceDestroy)
UNSUPPORTED(cublasLtMatmulPreferenceSetAttribute)
UNSUPPORTED(cublasLtMatrixLayoutCreate)
UNSUPPORTED(cublasLtMatrixLayoutDestroy)
UNSUPPORTED(cublasLtMatrixLayoutSetAttribute)
UNSUPPORTED(cublasLtMatrixTransform)
UNSUPPORTED(cublasLtMatrixTransformDescCreate)
UNSUPPORTED(cublasLtMatrixTransformDescDestroy)
