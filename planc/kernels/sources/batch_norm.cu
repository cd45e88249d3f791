// Forward: the statistics of every channel over ranges of rows, those of all rows, then the normalised values.
// Mean and sum of squared deviations of a range of rows: about its first row for each thread, then joined (Chan, Golub and
// LeVeque, 1983) in the order of threads.
extern "C" __global__ void __launch_bounds__(256) PREFIX_statistics(const T* x, float* part) {
  PLACE
  __shared__ float means[256 * W], squares[256 * W];
  __shared__ float counts[256];
  if (c < C) {
    float pivot[W], sum[W], square[W];
    float count = 0.0f;
    for (int k = 0; k < W; k++) pivot[k] = sum[k] = square[k] = 0.0f;
    for (long long m = first; m < end; m += 4 * DOWN) {
      Packed v[4];  // the pivot comes with the first rows: waiting for it alone would take as long as for all of them
      for (int u = 0; u < 4; u++)
        if (m + u * DOWN < end) v[u] = fetch(x + (m + u * DOWN) * C + c);
      if (m == first)
        for (int k = 0; k < W; k++) pivot[k] = to_float(v[0].x[k]);
      for (int u = 0; u < 4; u++)
        if (m + u * DOWN < end) {
          for (int k = 0; k < W; k++) {
            const float d = to_float(v[u].x[k]) - pivot[k];
            sum[k] += d;
            square[k] = fmaf(d, d, square[k]);
          }
          count += 1.0f;
        }
    }
    const float inverse = count > 0.0f ? 1.0f / count : 0.0f;
    for (int k = 0; k < W; k++) {
      const float mean = sum[k] * inverse;
      means[SHARED(threadIdx.x, k)] = pivot[k] + mean;
      squares[SHARED(threadIdx.x, k)] = square[k] - sum[k] * mean;
    }
    counts[threadIdx.x] = count;
  }
  for (int reach = DOWN / 2; reach > 0; reach /= 2) {
    __syncthreads();
    if (c < C && row < reach) {
      const int other = threadIdx.x + reach * ACROSS;
      const float a = counts[threadIdx.x], b = counts[other], both = a + b;
      const float share = both > 0.0f ? b / both : 0.0f;
      for (int k = 0; k < W; k++) {
        const float d = means[SHARED(other, k)] - means[SHARED(threadIdx.x, k)];
        means[SHARED(threadIdx.x, k)] += b > 0.0f ? d * share : 0.0f;
        squares[SHARED(threadIdx.x, k)] += squares[SHARED(other, k)] + (b > 0.0f ? d * d * a * share : 0.0f);
      }
      counts[threadIdx.x] = both;
    }
  }
  if (c < C && row == 0)
    for (int k = 0; k < W; k++) {
      part[blockIdx.y * C + c + k] = means[SHARED(threadIdx.x, k)];
      part[(SPLITS + blockIdx.y) * C + c + k] = squares[SHARED(threadIdx.x, k)];
    }
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_finish(const float* part, float* mean, float* variance) {
  const long long c = blockIdx.x * 8 + threadIdx.x % 8;
  const int lane = threadIdx.x / 8;
  __shared__ float means[256], squares[256], counts[256];
  float m = 0.0f, s = 0.0f, n = 0.0f;
  if (c < C)
#pragma unroll 8
    for (long long k = lane; k < SPLITS; k += 32) {
      const float b = (float)(k + 1 < SPLITS ? SHARE : M - (SPLITS - 1) * SHARE), both = n + b;
      const float d = part[k * C + c] - m;
      m += d * (b / both);
      s += part[(SPLITS + k) * C + c] + d * d * n * (b / both);
      n = both;
    }
  means[threadIdx.x] = m, squares[threadIdx.x] = s, counts[threadIdx.x] = n;
  for (int reach = 16; reach > 0; reach /= 2) {
    __syncthreads();
    if (lane < reach) {
      const int other = threadIdx.x + reach * 8;
      const float a = counts[threadIdx.x], b = counts[other], both = a + b;
      if (b > 0.0f) {
        const float d = means[other] - means[threadIdx.x];
        means[threadIdx.x] += d * (b / both);
        squares[threadIdx.x] += squares[other] + d * d * a * (b / both);
        counts[threadIdx.x] = both;
      }
    }
  }
  if (c < C && lane == 0) { mean[c] = means[threadIdx.x]; variance[c] = squares[threadIdx.x] * INVERSE_M; }
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_apply(
    const T* x, const float* scale, const float* bias, const T* residual,
    T* y, const float* mean, const float* variance) {
  PLACE
  if (c >= C) return;
  CHANNEL_VECTORS
#pragma unroll 4
  for (long long m = first; m < end; m += DOWN) {
    const Packed v = fetch(x + m * C + c);
#if ADDED
    const Packed r = fetch(residual + m * C + c);
#endif
    Packed w;
    for (int k = 0; k < W; k++) {
      float a = fmaf(to_float(v.x[k]) - centre[k], gain[k], shift[k]);
#if ADDED
      a += to_float(r.x[k]);
#endif
      from_float(RELU ? relu(a) : a, w.x[k]);
    }
    put(y + m * C + c, w);
  }
}
