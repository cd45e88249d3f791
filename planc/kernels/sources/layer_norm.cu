// Forward: mean and deviation of a row that lies in registers, in two passes over these, then the normalised row.
extern "C" __global__ void __launch_bounds__(THREADS) PREFIX_norm(
    const T* x, const S* scale, const S* bias, U* y, float* statistics) {
  const long long row = (long long)blockIdx.x * AT_ONCE + threadIdx.x / GROUP;
  const bool live = row < M;
  float v[PER][W];
  load_row(x + row * K, live, v);
#if CENTRED
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < PER; p++)
    for (int k = 0; k < W; k++) sum += v[p][k];
  const float mean = sum_of_row(sum) / K;
#else
  const float mean = 0.0f;
#endif
  float square = 0.0f;
#pragma unroll
  for (int p = 0; p < PER; p++)
    if (INSIDE(PLACE_IN_ROW(p)))
      for (int k = 0; k < W; k++) {
        v[p][k] -= mean;
        square = fmaf(v[p][k], v[p][k], square);
      }
  const float inverse = 1.0f / sqrtf(sum_of_row(square) / K + EPSILON);
  if (!live) return;
#pragma unroll
  for (int p = 0; p < PER; p++) {
    const long long at = PLACE_IN_ROW(p);
    if (!INSIDE(at)) break;
    const Vector<S, W> s = fetch_as<WIDE, S, W>(scale + at);
#if BIASED
    const Vector<S, W> b = fetch_as<WIDE, S, W>(bias + at);
#endif
    Vector<U, W> to;
    for (int k = 0; k < W; k++) {
      const float a = v[p][k] * inverse;
#if BIASED
      from_float(fmaf(a, to_float(s.x[k]), to_float(b.x[k])), to.x[k]);
#else
      from_float(a * to_float(s.x[k]), to.x[k]);
#endif
    }
    put_as<WIDE, U, W>(y + row * K + at, to);
  }
  if (threadIdx.x % GROUP == 0) {
#if CENTRED
    statistics[row * 2] = mean;
    statistics[row * 2 + 1] = inverse;
#else
    statistics[row] = inverse;
#endif
  }
}
