// Gradient: the sums of dy xhat and of dy over every row, then dx from those of a group, and the sums over samples.
extern "C" __global__ void __launch_bounds__(256) PREFIX_sums(
    const T* dy, const T* x, const float* statistics, float* part) {
  PLACE
  float slope = 0.0f, level = 0.0f;
  if (live) {
    const float mean = statistics[row / CG * 2];
    EACH_VECTOR(i) {
      const Packed g = fetch(dy + row * L + i), v = fetch(x + row * L + i);
      for (int k = 0; k < W; k++) {
        slope = fmaf(to_float(g.x[k]), to_float(v.x[k]) - mean, slope);
        level += to_float(g.x[k]);
      }
    }
  }
  sums_of_row(slope, level);
  if (live && lane == 0) {
    part[row * 2] = slope * statistics[row / CG * 2 + 1];
    part[row * 2 + 1] = level;
  }
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_spread(
    const T* dy, const T* x, const S* scale, const float* statistics, const float* part, T* dx) {
  PLACE
  float slope = 0.0f, level = 0.0f;
  if (live)
    for (long long k = lane; k < CG; k += GROUP) {
      const float s = to_float(scale[c - c % CG + k]);
      slope = fmaf(part[(first + k) * 2], s, slope);
      level = fmaf(part[(first + k) * 2 + 1], s, level);
    }
  sums_of_row(slope, level);
  if (!live) return;
  const float mean = statistics[row / CG * 2], inverse = statistics[row / CG * 2 + 1], s = to_float(scale[c]);
  level /= CG * L, slope = slope / (CG * L) * inverse;
  EACH_VECTOR(i) {
    const Packed g = fetch(dy + row * L + i), v = fetch(x + row * L + i);
    Packed to;
    for (int k = 0; k < W; k++)
      from_float((to_float(g.x[k]) * s - level - (to_float(v.x[k]) - mean) * slope) * inverse, to.x[k]);
    put(dx + row * L + i, to);
  }
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_join(const float* part, S* dscale, S* dbias) {
  const long long c = (long long)blockIdx.x * 8 + threadIdx.x % 8;
  const int lane = threadIdx.x / 8;
  float slope = 0.0f, level = 0.0f;
  if (c < C)
    for (long long n = lane; n < N; n += 32) {
      slope += part[(n * C + c) * 2];
      level += part[(n * C + c) * 2 + 1];
    }
  __shared__ float left[256], right[256];
  left[threadIdx.x] = slope, right[threadIdx.x] = level;
  for (int reach = 16; reach > 0; reach /= 2) {
    __syncthreads();
    if (lane < reach) {
      left[threadIdx.x] += left[threadIdx.x + reach * 8];
      right[threadIdx.x] += right[threadIdx.x + reach * 8];
    }
  }
  if (c < C && lane == 0) {
    from_float(left[threadIdx.x], dscale[c]);
    from_float(right[threadIdx.x], dbias[c]);
  }
}
