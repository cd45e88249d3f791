// Functions of libcudart that the provider needs to be there but that planc's sessions never call: they refuse.
// Without CUDA's headers, whose parameters do not matter here.
#define REFUSED(name) \
    extern "C" __attribute__((visibility("default"))) int name() { return 801; }  // cudaErrorNotSupported

REFUSED(cudaFreeAsync)
REFUSED(cudaGetDriverEntryPointByVersion)
REFUSED(cudaGraphDestroy)
REFUSED(cudaGraphExecDestroy)
REFUSED(cudaGraphInstantiate)
REFUSED(cudaGraphLaunch)
REFUSED(cudaKernelSetAttributeForDevice)
REFUSED(cudaLibraryGetKernel)
REFUSED(cudaLibraryLoadData)
REFUSED(cudaLibraryUnload)
REFUSED(cudaMallocFromPoolAsync)
REFUSED(cudaMemPoolCreate)
REFUSED(cudaMemPoolDestroy)
REFUSED(cudaMemPoolGetAttribute)
REFUSED(cudaMemPoolSetAttribute)
REFUSED(cudaMemPoolTrimTo)
REFUSED(cudaMemcpy2DAsync)
REFUSED(cudaMemcpyFromSymbol)
REFUSED(cudaStreamBeginCapture)
REFUSED(cudaStreamEndCapture)
