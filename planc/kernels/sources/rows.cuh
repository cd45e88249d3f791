// A matrix [N, K] of T, rows STRIDE elements apart, a block of THREADS a row. A row is cut at multiples of W elements of the whole matrix, whatever its
// address: what does not fill a vector at either end is read element by element, and no sum depends on where it lies.
#ifndef INFINITY
#define INFINITY bits_to_float(0x7f800000u)
#define NAN bits_to_float(0x7fffffffu)
#endif
typedef Vector<T, W> Packed;
DEVICE Packed fetch(const T* from) { return fetch_as<WIDE, T, W>(from); }
DEVICE void put(T* to, const Packed& v) { put_as<WIDE, T, W>(to, v); }
#define ROW \
  const long long start = (long long)blockIdx.x * STRIDE; \
  const int rest = (int)((W - start % W) % W), head = rest < K ? rest : (int)K; \
  const long long body = (K - head) / W * W, tail = head + body;
#define ENDS(i) \
  for (long long i = threadIdx.x; i < head + (K - tail); i += THREADS)
#define END_OF(i) (i < head ? i : i - head + tail)
#define VECTORS(i) for (long long i = head + (long long)threadIdx.x * W; i < tail; i += THREADS * W)
