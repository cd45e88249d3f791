// Forward: mean and sum of squared deviations of every row about the mean of its first elements, joined over the rows of a
// group (Chan, Golub and LeVeque, 1983), then the normalised values.
#define HEAD (GROUP * W < L ? GROUP * W : L)
extern "C" __global__ void __launch_bounds__(256) PREFIX_statistics(const T* x, float* part) {
  PLACE
  float sum = 0.0f, square = 0.0f, pivot = 0.0f;
  if (live && lane * W < L) {
    const Packed v = fetch(x + row * L + lane * W);
    for (int k = 0; k < W; k++) pivot += to_float(v.x[k]);
  }
  pivot = sum_of_row(pivot) / HEAD;
  if (live) {
    EACH_VECTOR(i) {
      const Packed v = fetch(x + row * L + i);
      for (int k = 0; k < W; k++) {
        const float d = to_float(v.x[k]) - pivot;
        sum += d;
        square = fmaf(d, d, square);
      }
    }
  }
  sums_of_row(sum, square);
  if (live && lane == 0) {
    part[row * 2] = pivot + sum / L;
    part[row * 2 + 1] = square - sum * (sum / L);
  }
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_apply(
    const T* x, const S* scale, const S* bias, const float* part, T* y, float* statistics) {
  PLACE
  float mean = 0.0f, square = 0.0f;
  if (live)
    for (long long k = lane; k < CG; k += GROUP) mean += part[(first + k) * 2];
  mean = sum_of_row(mean) / CG;
  if (live)
    for (long long k = lane; k < CG; k += GROUP) {
      const float d = part[(first + k) * 2] - mean;
      square += part[(first + k) * 2 + 1] + d * d * L;
    }
  const float variance = sum_of_row(square) / (CG * L);
  if (!live) return;
  const float inverse = 1.0f / sqrtf(variance + EPSILON), gain = inverse * to_float(scale[c]), shift = to_float(bias[c]);
  EACH_VECTOR(i) {
    const Packed v = fetch(x + row * L + i);
    Packed to;
    for (int k = 0; k < W; k++) from_float(fmaf(to_float(v.x[k]) - mean, gain, shift), to.x[k]);
    put(y + row * L + i, to);
  }
  if (row == first && lane == 0) {
    statistics[row / CG * 2] = mean;
    statistics[row / CG * 2 + 1] = inverse;
  }
}
