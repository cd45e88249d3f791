// A matrix [M, C] of T: a block is ACROSS threads of W channels each by DOWN rows, over ranges of SHARE rows.
typedef Vector<T, W> Packed;
DEVICE Packed fetch(const T* from) { return fetch_as<WIDE, T, W>(from); }
DEVICE void put(T* to, const Packed& v) { put_as<WIDE, T, W>(to, v); }
DEVICE float gain_of(float variance, float scale) { return (1.0f / sqrtf(variance + EPSILON)) * scale; }
#define PLACE \
  const long long c = ((long long)blockIdx.x * ACROSS + threadIdx.x % ACROSS) * W; \
  const int row = threadIdx.x / ACROSS; \
  const long long first = blockIdx.y * SHARE + row, end = blockIdx.y * SHARE + SHARE < M ? blockIdx.y * SHARE + SHARE : M;
#define CHANNEL_VECTORS \
  float gain[W], centre[W], shift[W]; \
  for (int k = 0; k < W; k++) { \
    gain[k] = gain_of(variance[c + k], scale[c + k]); \
    centre[k] = mean[c + k]; \
    shift[k] = bias[c + k]; \
  }
