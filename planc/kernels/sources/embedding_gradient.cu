// Sum of rows [N, D] by their numbers: each number's place in sorted order, equal ones as they stand; then the rows in this
// order, SEGMENT of them a block. Sums that go on in another segment are parts, which are added in order at the end.
#if LONG
typedef long long Id;
#else
typedef int Id;
#endif
typedef Vector<float, W> Floats;
typedef Vector<int, 4> Four;
// Numbers outside the table come last and are not added.
DEVICE int key_of(Id id) {
  const long long at = id < 0 ? (long long)id + COUNT : (long long)id;
  return at < 0 || at >= COUNT ? (int)COUNT : (int)at;
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_compare(const Id* ids, int* ranks) {
  const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
  const long long begin = blockIdx.y * SHARE, end = begin + SHARE < N ? begin + SHARE : N;
  const int mine = i < N ? key_of(ids[i]) : 0;
  int rank = 0;
  __shared__ Four keys[64];
  for (long long tile = begin; tile < end; tile += 256) {
    __syncthreads();
    keys[threadIdx.x / 4].x[threadIdx.x % 4] = tile + threadIdx.x < end ? key_of(ids[tile + threadIdx.x]) : 0x7fffffff;
    __syncthreads();
    // Ranges are whole tiles: all numbers of another tile stand before or behind those of this block.
    if (tile == (long long)blockIdx.x * 256) {
      for (int k = 0; k < 256; k++) rank += keys[k / 4].x[k % 4] < mine + (k < threadIdx.x ? 1 : 0);
    } else {
      const int bound = mine + (tile < (long long)blockIdx.x * 256 ? 1 : 0);
#pragma unroll 8
      for (int k = 0; k < 64; k++) {
        const Four four = keys[k];
        for (int n = 0; n < 4; n++) rank += four.x[n] < bound;
      }
    }
  }
  if (i < N) ranks[blockIdx.y * N + i] = rank;
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_place(const Id* ids, const int* ranks, int* order, int* sorted) {
  const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
  if (i >= N) return;
  int place = 0;
  for (int k = 0; k < SPLITS; k++) place += ranks[k * N + i];
  order[place] = (int)i;
  sorted[place] = key_of(ids[i]);
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_fill(const float* base, float* to) {
  if (BASED && base == to) return;
  for (long long i = ((long long)blockIdx.x * 256 + threadIdx.x) * W; i < COUNT * D; i += (long long)gridDim.x * 256 * W) {
    Floats v;
#if BASED
    v = fetch_as<WIDE, float, W>(base + i);
#else
    for (int k = 0; k < W; k++) v.x[k] = 0.0f;
#endif
    put_as<WIDE, float, W>(to + i, v);
  }
}
DEVICE void add_to(float* row, const float* sum) {
  Floats v = fetch_as<WIDE, float, W>(row);
  for (int k = 0; k < W; k++) v.x[k] += sum[k];
  put_as<WIDE, float, W>(row, v);
}
extern "C" __global__ void __launch_bounds__(32) PREFIX_add(
    const T* __restrict__ dy, const int* __restrict__ order, const int* __restrict__ sorted, float* __restrict__ to,
    float* __restrict__ part) {
  const long long c = ((long long)blockIdx.x * 32 + threadIdx.x) * W;
  if (c >= D) return;
  const long long first = (long long)blockIdx.y * SEGMENT, end = first + SEGMENT < N ? first + SEGMENT : N;
  const int before = first > 0 ? sorted[first - 1] : -1, behind = end < N ? sorted[end] : -1;
  float sum[W];
  for (int k = 0; k < W; k++) sum[k] = 0.0f;
  long long start = first;
  int id = sorted[first];
#pragma unroll 4
  for (long long p = first; p < end; p++) {
    const Vector<T, W> v = fetch_as<WIDE, T, W>(dy + order[p] * D + c);
    for (int k = 0; k < W; k++) sum[k] += to_float(v.x[k]);
    const int next = p + 1 < end ? sorted[p + 1] : -2;
    if (next == id) continue;
    if (id < COUNT) {
      const bool from_before = start == first && id == before, goes_on = p + 1 == end && id == behind;
      if (from_before || goes_on) {
        Floats v;
        for (int k = 0; k < W; k++) v.x[k] = sum[k];
        put_as<WIDE, float, W>(part + (blockIdx.y * 2 + (from_before ? 0 : 1)) * D + c, v);
      } else
        add_to(to + id * D + c, sum);
    }
    for (int k = 0; k < W; k++) sum[k] = 0.0f;
    start = p + 1;
    id = next;
  }
}
// A run of equal numbers that leaves the segment where it begins: its parts, there the second, in the following ones the first.
extern "C" __global__ void __launch_bounds__(32) PREFIX_join(const float* part, const int* sorted, float* to) {
  const long long c = ((long long)blockIdx.x * 32 + threadIdx.x) * W;
  const long long first = (long long)blockIdx.y * SEGMENT, end = first + SEGMENT;
  if (c >= D || end >= N) return;
  const int id = sorted[end - 1];
  const bool begins = first == 0 || sorted[first - 1] != id;
  if (id >= COUNT || sorted[end] != id || !begins) return;
  long long last = blockIdx.y + 1, beyond = SEGMENTS;
  while (beyond - last > 1) {
    const long long middle = (last + beyond) / 2;
    if (sorted[middle * SEGMENT] == id) last = middle;
    else beyond = middle;
  }
  const Floats begun = fetch_as<WIDE, float, W>(part + (blockIdx.y * 2 + 1) * D + c);
  float sum[W];
  for (int k = 0; k < W; k++) sum[k] = begun.x[k];
#pragma unroll 8
  for (long long s = blockIdx.y + 1; s <= last; s++) {
    const Floats v = fetch_as<WIDE, float, W>(part + s * 2 * D + c);
    for (int k = 0; k < W; k++) sum[k] += v.x[k];
  }
  add_to(to + id * D + c, sum);
}
