// Gradient: a block takes a range of rows, writes their dx and adds up its share of the scale's and the bias's gradients; then
// the shares are added. The order of additions is fixed.
#define SUMS (1 + CENTRED)
extern "C" __global__ void __launch_bounds__(THREADS) PREFIX_rows(
    const U* dy, const T* x, const S* scale, const float* statistics, const T* addend, T* dx, float* part) {
  const long long first = blockIdx.x * SHARE, end = first + SHARE < M ? first + SHARE : M;
  float sums[SUMS][PER][W];
  for (int s = 0; s < SUMS; s++)
#pragma unroll
    for (int p = 0; p < PER; p++)
      for (int k = 0; k < W; k++) sums[s][p][k] = 0.0f;
  for (long long base = first; base < end; base += AT_ONCE) {
    const long long row = base + threadIdx.x / GROUP;
    const bool live = row < end;
    float g[PER][W], v[PER][W];
    load_row(dy + row * K, live, g);
    load_row(x + row * K, live, v);
    const float inverse = live ? statistics[row * SUMS + CENTRED] : 0.0f;
    const float mean = CENTRED && live ? statistics[row * SUMS] : 0.0f;
#if ADDED
    Packed more[PER];
#pragma unroll
    for (int p = 0; p < PER; p++)
      if (live && INSIDE(PLACE_IN_ROW(p))) more[p] = fetch_as<WIDE, T, W>(addend + row * K + PLACE_IN_ROW(p));
#endif
    float level = 0.0f, slope = 0.0f;
#pragma unroll
    for (int p = 0; p < PER; p++) {
      const long long at = PLACE_IN_ROW(p);
      if (!INSIDE(at)) break;
      const Vector<S, W> s = fetch_as<WIDE, S, W>(scale + at);
      for (int k = 0; k < W; k++) {
        v[p][k] = live ? (v[p][k] - mean) * inverse : 0.0f;
        sums[0][p][k] = fmaf(g[p][k], v[p][k], sums[0][p][k]);
#if CENTRED
        sums[1][p][k] += g[p][k];
#endif
        g[p][k] *= to_float(s.x[k]);
#if CENTRED
        level += g[p][k];
#endif
        slope = fmaf(g[p][k], v[p][k], slope);
      }
    }
    sums_of_row(level, slope);
    level /= K, slope /= K;
    if (live)
#pragma unroll
      for (int p = 0; p < PER; p++) {
        const long long at = PLACE_IN_ROW(p);
        if (!INSIDE(at)) break;
        Packed to;
        for (int k = 0; k < W; k++) {
          float a = (g[p][k] - level - v[p][k] * slope) * inverse;
#if ADDED
          a += to_float(more[p].x[k]);
#endif
          from_float(a, to.x[k]);
        }
        put_as<WIDE, T, W>(dx + row * K + at, to);
      }
  }
#if AT_ONCE > 1
  // Threads of a row side by side, so that they meet no bank twice.
  __shared__ float joined[SUMS][PER * W][GROUP];
  const int lane = threadIdx.x % GROUP;
  for (int turn = 0; turn < AT_ONCE; turn++) {
    if (threadIdx.x / GROUP == turn)
#pragma unroll
      for (int p = 0; p < PER; p++)
        for (int s = 0; s < SUMS; s++)
          for (int k = 0; k < W; k++) {
            float* to = &joined[s][p * W + k][lane];
            *to = turn ? *to + sums[s][p][k] : sums[s][p][k];
          }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < SUMS * K; i += THREADS) {
    const int c = i % K, vector = c / W;
    part[blockIdx.x * SUMS * K + i] = joined[i / K][vector / GROUP * W + c % W][vector % GROUP];
  }
#else
#pragma unroll
  for (int p = 0; p < PER; p++) {
    const long long at = PLACE_IN_ROW(p);
    if (INSIDE(at))
      for (int s = 0; s < SUMS; s++)
        for (int k = 0; k < W; k++) part[(blockIdx.x * SUMS + s) * K + at + k] = sums[s][p][k];
  }
#endif
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_join(const float* part, S* dscale, S* dbias) {
  const long long c = (long long)blockIdx.x * 8 + threadIdx.x % 8;
  const int lane = threadIdx.x / 8;
  __shared__ float lanes[SUMS][256];
  for (int s = 0; s < SUMS; s++) {
    float sum = 0.0f;
    if (c < K)
#pragma unroll 8
      for (long long k = lane; k < SPLITS; k += 32) sum += part[(k * SUMS + s) * K + c];
    lanes[s][threadIdx.x] = sum;
  }
  for (int reach = 16; reach > 0; reach /= 2) {
    __syncthreads();
    if (lane < reach)
      for (int s = 0; s < SUMS; s++) lanes[s][threadIdx.x] += lanes[s][threadIdx.x + reach * 8];
  }
  if (c < K && lane == 0) {
    from_float(lanes[0][threadIdx.x], dscale[c]);
#if CENTRED
    from_float(lanes[1][threadIdx.x], dbias[c]);
#endif
  }
}
