// share (softmax - the label's distribution), element by element: the result may take the place of the logits.
extern "C" __global__ void __launch_bounds__(THREADS) PREFIX_gradient(
    const T* logits, const long long* labels, const float* statistics, const float* shares, T* gradient) {
  ROW
  const T* row = logits + start;
  T* to = gradient + start;
  const long long label = labels[blockIdx.x];
  const bool counts = label != IGNORED;
  const float most = statistics[blockIdx.x * 2ll], shift = statistics[blockIdx.x * 2ll + 1];
  const float share = shares[ONE_SHARE ? 0 : blockIdx.x];
#define SLOPE(a, at) (counts ? share * (expf(a - most - shift) - SMOOTHING * (1.0f / K) - (at == label ? 1.0f - SMOOTHING : 0.0f)) : 0.0f)
  ENDS(i) {
    const long long at = END_OF(i);
    from_float(SLOPE(to_float(row[at]), at), to[at]);
  }
#pragma unroll 2
  VECTORS(i) {
    const Packed v = fetch(row + i);
    Packed w;
    for (int k = 0; k < W; k++) from_float(SLOPE(to_float(v.x[k]), i + k), w.x[k]);
    put(to + i, w);
  }
}
