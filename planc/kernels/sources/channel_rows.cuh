// Rows of L elements, one for each sample and channel, GROUP threads a row; CG channels are a group.
typedef Vector<T, W> Packed;
#define PLACE \
  const long long row = (long long)blockIdx.x * AT_ONCE + threadIdx.x / GROUP; \
  const long long lane = threadIdx.x % GROUP, c = row % C, first = row - c % CG; \
  const bool live = row < ROWS;
#define EACH_VECTOR(i) _Pragma("unroll 4") for (long long i = lane * W; i < L; i += GROUP * W)
DEVICE Packed fetch(const T* from) { return fetch_as<WIDE, T, W>(from); }
DEVICE void put(T* to, const Packed& v) { put_as<WIDE, T, W>(to, v); }
