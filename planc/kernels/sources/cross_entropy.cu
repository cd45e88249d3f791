// Softmax of a row in one pass (Milakov and Gimelshein, 2018): the largest element so far, the sum of exponentials about
// it, and, where labels are smoothed, the sum of all elements.
DEVICE float power(float a, float about) { return a == -INFINITY ? 0.0f : expf(a - about); }
DEVICE float scale(float from, float to) { return from == to ? 1.0f : expf(from - to); }
DEVICE void join(float& most, float& sum, float other_most, float other_sum) {
  const float both = fmaxf(most, other_most);
  sum = sum * scale(most, both) + other_sum * scale(other_most, both);
  most = both;
}
extern "C" __global__ void __launch_bounds__(THREADS) PREFIX_forward(
    const T* logits, const long long* labels, float* loss, float* statistics) {
  ROW
  const T* row = logits + start;
  float most = -INFINITY, sum = 0.0f, plain = 0.0f;
  ENDS(i) {
    const float a = to_float(row[END_OF(i)]), now = fmaxf(most, a);
    sum = sum * scale(most, now) + power(a, now);
    most = now;
    if (SMOOTH) plain += a;
  }
#pragma unroll 2
  VECTORS(i) {
    const Packed v = fetch(row + i);
    float a[W], now = most;
    for (int k = 0; k < W; k++) { a[k] = to_float(v.x[k]); now = fmaxf(now, a[k]); }
    sum *= scale(most, now);
    for (int k = 0; k < W; k++) { sum += power(a[k], now); if (SMOOTH) plain += a[k]; }
    most = now;
  }
  __shared__ float mosts[THREADS], sums[THREADS], plains[THREADS];
  mosts[threadIdx.x] = most, sums[threadIdx.x] = sum, plains[threadIdx.x] = plain;
  for (int reach = THREADS / 2; reach > 0; reach /= 2) {
    __syncthreads();
    if (threadIdx.x < reach) {
      join(mosts[threadIdx.x], sums[threadIdx.x], mosts[threadIdx.x + reach], sums[threadIdx.x + reach]);
      plains[threadIdx.x] += plains[threadIdx.x + reach];
    }
  }
  if (threadIdx.x == 0) {
    const bool none = mosts[0] == -INFINITY;
    const float shift = none ? NAN : logf(sums[0]);
    statistics[blockIdx.x * 2ll] = mosts[0], statistics[blockIdx.x * 2ll + 1] = shift;
    const long long label = labels[blockIdx.x];
    float one = 0.0f;
    if (label != IGNORED) {
      const float z = label >= 0 && label < K ? to_float(row[label]) : NAN;
      one = shift - (1.0f - SMOOTHING) * (z - mosts[0]);
      if (SMOOTH) one -= SMOOTHING * (plains[0] * (1.0f / K) - mosts[0]);
    }
    loss[blockIdx.x] = one;
  }
}
