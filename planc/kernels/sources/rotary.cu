// A thread turns W pairs of a row: columns of the first half, and those half a row on. Both are read before either is written.
extern "C" __global__ void __launch_bounds__(256) PREFIX_rotate(
    const T* x, const float* cosine, const float* sine, U* y) {
  const long long pair = ((long long)blockIdx.x * 256 + threadIdx.x) * W;
  if (pair >= PAIRS) return;
  const long long row = pair / HALF, column = pair % HALF;
  const long long at = row * 2 * HALF + column, angle = row / BELOW % ANGLES * 2 * HALF + column;
  const Vector<T, W> low = fetch_as<WIDE, T, W>(x + at), high = fetch_as<WIDE, T, W>(x + at + HALF);
  const Vector<float, W> cos_low = fetch_as<WIDE, float, W>(cosine + angle);
  const Vector<float, W> cos_high = fetch_as<WIDE, float, W>(cosine + angle + HALF);
  const Vector<float, W> sin_low = fetch_as<WIDE, float, W>(sine + angle);
  const Vector<float, W> sin_high = fetch_as<WIDE, float, W>(sine + angle + HALF);
  Vector<U, W> to_low, to_high;
  for (int k = 0; k < W; k++) {
    const float a = to_float(low.x[k]), b = to_float(high.x[k]);
#if INVERSE
    from_float(a * cos_low.x[k] + b * sin_high.x[k], to_low.x[k]);
    from_float(b * cos_high.x[k] - a * sin_low.x[k], to_high.x[k]);
#else
    from_float(a * cos_low.x[k] - b * sin_low.x[k], to_low.x[k]);
    from_float(b * cos_high.x[k] + a * sin_high.x[k], to_high.x[k]);
#endif
  }
  put_as<WIDE, U, W>(y + at, to_low);
  put_as<WIDE, U, W>(y + at + HALF, to_high);
}
