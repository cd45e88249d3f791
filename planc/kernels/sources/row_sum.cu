// Column sums of a matrix [M, C] of T: a block is ACROSS threads of W columns each by DOWN rows, over a range of SHARE rows;
// then the ranges' sums are added. The order of additions is fixed.
typedef Vector<T, W> Packed;
DEVICE float term(float a) { return SQUARES ? a * a : a; }
extern "C" __global__ void __launch_bounds__(256) PREFIX_parts(const T* x, float* part) {
  const long long c = ((long long)blockIdx.x * ACROSS + threadIdx.x % ACROSS) * W;
  const int row = threadIdx.x / ACROSS;
  const long long first = blockIdx.y * SHARE, end = first + SHARE < M ? first + SHARE : M;
  float sum[W];
  for (int k = 0; k < W; k++) sum[k] = 0.0f;
  if (c < C) {
#pragma unroll 4
    for (long long m = first + row; m < end; m += DOWN) {
      const Packed v = fetch_as<WIDE, T, W>(x + m * C + c);
      for (int k = 0; k < W; k++) sum[k] += term(to_float(v.x[k]));
    }
  }
  __shared__ float sums[256 * W];
  for (int k = 0; k < W; k++) sums[k * 256 + threadIdx.x] = sum[k];
  for (int reach = DOWN / 2; reach > 0; reach /= 2) {
    __syncthreads();
    if (row < reach)
      for (int k = 0; k < W; k++) sums[k * 256 + threadIdx.x] += sums[k * 256 + threadIdx.x + reach * ACROSS];
  }
  if (c < C && row == 0)
    for (int k = 0; k < W; k++) part[blockIdx.y * C + c + k] = sums[k * 256 + threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_join(const float* part, float* sums) {
  const long long c = (long long)blockIdx.x * 8 + threadIdx.x % 8;
  const int lane = threadIdx.x / 8;
  float sum = 0.0f;
  if (c < C)
#pragma unroll 8
    for (long long k = lane; k < SPLITS; k += 32) sum += part[k * C + c];
  __shared__ float lanes[256];
  lanes[threadIdx.x] = sum;
  for (int reach = 16; reach > 0; reach /= 2) {
    __syncthreads();
    if (lane < reach) lanes[threadIdx.x] += lanes[threadIdx.x + reach * 8];
  }
  if (c < C && lane == 0) sums[c] = lanes[threadIdx.x];
}
