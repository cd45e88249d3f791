// Sums over the GROUP threads of a row, all of a block's THREADS where these are more than a warp: the same bits in each of
// them. Every thread of the block must come here.
DEVICE void sums_of_row(float& a, float& b) {
#pragma unroll
  for (int reach = (GROUP < 32 ? GROUP : 32) / 2; reach > 0; reach /= 2) {
    a += __shfl_xor_sync(0xffffffffu, a, reach);
    b += __shfl_xor_sync(0xffffffffu, b, reach);
  }
#if GROUP > 32
  __shared__ float warps[THREADS / 32][2];
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32][0] = a, warps[threadIdx.x / 32][1] = b;
  __syncthreads();
  a = b = 0.0f;
  for (int k = 0; k < GROUP / 32; k++) a += warps[k][0], b += warps[k][1];
#endif
}
DEVICE float sum_of_row(float a) {
  float none = 0.0f;
  sums_of_row(a, none);
  return a;
}
