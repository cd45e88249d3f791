// A matrix [M, C] of T: a block is ACROSS threads of W channels each by DOWN rows, over ranges of SHARE rows.
typedef Vector<T, W> Packed;
DEVICE Packed fetch(const T* from) { return fetch_as<WIDE, T, W>(from); }
DEVICE void put(T* to, const Packed& v) { put_as<WIDE, T, W>(to, v); }
// W float32 numbers, one a channel, by loads of 16 bytes where there are as many: eight loads of four bytes would touch
// each sector of memory eight times.
DEVICE void floats(const float* from, float* to) {
  const int V = W < 4 ? W : 4;
  for (int k = 0; k < W; k += V) {
    const Vector<float, V> v = fetch_as<WIDE, float, V>(from + k);
    for (int i = 0; i < V; i++) to[k + i] = v.x[i];
  }
}
// Where channel k of a thread lies in shared memory: threads side by side, so that a warp meets every bank once.
#define SHARED(thread, k) ((k) * 256 + (thread))
#define PLACE \
  const long long c = ((long long)blockIdx.x * ACROSS + threadIdx.x % ACROSS) * W; \
  const int row = threadIdx.x / ACROSS; \
  const long long first = blockIdx.y * SHARE + row, end = blockIdx.y * SHARE + SHARE < M ? blockIdx.y * SHARE + SHARE : M;
