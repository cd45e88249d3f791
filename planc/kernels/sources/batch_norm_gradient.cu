// Gradient: both sums of every channel over ranges of rows, those over all rows, then dx.
#if !RELU
#define KEPT true
#elif ADDED
#define KEPT (to_float(p.x[k]) > 0.0f)
#else
#define KEPT (fmaf(d, gain[k], shift[k]) > 0.0f)
#endif
extern "C" __global__ void __launch_bounds__(256) PREFIX_sums(
    const T* dy, const T* x, const float* scale, const float* bias, const float* mean, const float* variance, 
    const T* y,
    float* part) {
  PLACE
  __shared__ float left[256 * W], right[256 * W];
  float level[W], slope[W];
  for (int k = 0; k < W; k++) level[k] = slope[k] = 0.0f;
  if (c < C) {
    CHANNEL_VECTORS
#pragma unroll 4
    for (long long m = first; m < end; m += DOWN) {
      const Packed g = fetch(dy + m * C + c), v = fetch(x + m * C + c);
#if ADDED
      const Packed p = fetch(y + m * C + c);
#endif
      for (int k = 0; k < W; k++) {
        const float d = to_float(v.x[k]) - centre[k];
        const float a = KEPT ? to_float(g.x[k]) : 0.0f;
        level[k] += a;
        slope[k] = fmaf(a, d, slope[k]);
      }
    }
  }
  for (int k = 0; k < W; k++) { left[SHARED(threadIdx.x, k)] = level[k]; right[SHARED(threadIdx.x, k)] = slope[k]; }
  for (int reach = DOWN / 2; reach > 0; reach /= 2) {
    __syncthreads();
    if (row < reach)
      for (int k = 0; k < W; k++) {
        left[SHARED(threadIdx.x, k)] += left[SHARED(threadIdx.x + reach * ACROSS, k)];
        right[SHARED(threadIdx.x, k)] += right[SHARED(threadIdx.x + reach * ACROSS, k)];
      }
  }
  if (c < C && row == 0)
    for (int k = 0; k < W; k++) {
      part[blockIdx.y * C + c + k] = left[SHARED(threadIdx.x, k)];
      part[(SPLITS + blockIdx.y) * C + c + k] = right[SHARED(threadIdx.x, k)];
    }
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_join(
    const float* part, const float* variance, float* dscale, float* dbias) {
  const long long c = blockIdx.x * 8 + threadIdx.x % 8;
  const int lane = threadIdx.x / 8;
  __shared__ float left[256], right[256];
  float level = 0.0f, slope = 0.0f;
  if (c < C)
#pragma unroll 8
    for (long long k = lane; k < SPLITS; k += 32) {
      level += part[k * C + c];
      slope += part[(SPLITS + k) * C + c];
    }
  left[threadIdx.x] = level, right[threadIdx.x] = slope;
  for (int reach = 16; reach > 0; reach /= 2) {
    __syncthreads();
    if (lane < reach) {
      left[threadIdx.x] += left[threadIdx.x + reach * 8];
      right[threadIdx.x] += right[threadIdx.x + reach * 8];
    }
  }
  if (c < C && lane == 0) {
    dbias[c] = left[threadIdx.x];
    dscale[c] = right[threadIdx.x] * (1.0f / sqrtf(variance[c] + EPSILON));
  }
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_spread(
    const T* dy, const T* x, const float* scale, const float* bias, const float* mean, const float* variance, 
    const T* y,
    T* dx, const float* dscale, const float* dbias, T* dresidual) {
  PLACE
  if (c >= C) return;
  CHANNEL_VECTORS
  float level[W], slope[W];
  floats(dbias + c, level); floats(dscale + c, slope);
  for (int k = 0; k < W; k++) {
    level[k] *= INVERSE_M;
    slope[k] = slope[k] * INVERSE_M * (1.0f / sqrtf(variances[k] + EPSILON));
  }
#pragma unroll 4
  for (long long m = first; m < end; m += DOWN) {
    const Packed g = fetch(dy + m * C + c), v = fetch(x + m * C + c);
#if ADDED
    const Packed p = fetch(y + m * C + c);
#endif
    Packed w;
#if ADDED
    Packed q;
#endif
    for (int k = 0; k < W; k++) {
      const float d = to_float(v.x[k]) - centre[k];
      const float a = KEPT ? to_float(g.x[k]) : 0.0f;
      from_float((a - level[k] - d * slope[k]) * gain[k], w.x[k]);
#if ADDED
      from_float(a, q.x[k]);
#endif
    }
    put(dx + m * C + c, w);
#if ADDED
    put(dresidual + m * C + c, q);
#endif
  }
}
