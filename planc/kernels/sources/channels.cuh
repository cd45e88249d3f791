// A matrix [M, C] of T: a block is ACROSS threads of W channels each by DOWN rows, over ranges of SHARE rows.
typedef Vector<T, W> Packed;
DEVICE Packed fetch(const T* from) { return fetch_as<WIDE, T, W>(from); }
DEVICE void put(T* to, const Packed& v) { put_as<WIDE, T, W>(to, v); }
#define PLACE \
  const long long c = ((long long)blockIdx.x * ACROSS + threadIdx.x % ACROSS) * W; \
  const int row = threadIdx.x / ACROSS; \
  const long long first = blockIdx.y * SHARE + row, end = blockIdx.y * SHARE + SHARE < M ? blockIdx.y * SHARE + SHARE : M;
