// Philox4x32-10 (Salmon et al., 2011): four 32-bit numbers of a counter (place / 4 as two words, step, stream) and a key.
struct Four { unsigned x[4]; };
DEVICE Four philox(unsigned long long place, unsigned step, unsigned long long seed) {
  Four c = {{(unsigned)place, (unsigned)(place >> 32), step, STREAM}};
  unsigned low = (unsigned)seed, high = (unsigned)(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const unsigned long long p = 0xD2511F53ull * c.x[0], q = 0xCD9E8D57ull * c.x[2];
    c = {{(unsigned)(q >> 32) ^ c.x[1] ^ low, (unsigned)q, (unsigned)(p >> 32) ^ c.x[3] ^ high, (unsigned)p}};
    low += 0x9E3779B9u, high += 0xBB67AE85u;
  }
  return c;
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_dropout(const T* x, const long long* key, T* y) {
  const long long first = ((long long)blockIdx.x * 256 + threadIdx.x) * W;
  const unsigned long long seed = (unsigned long long)key[0];
  const unsigned step = (unsigned)key[1];
  if (first >= N) return;
  unsigned drawn[W];
#pragma unroll
  for (int k = 0; k < W; k += 4) {
    const Four four = philox((unsigned long long)(first + k) / 4, step, seed);
    for (int j = 0; j < 4; j++) drawn[k + j] = four.x[j];
  }
#define KEPT(k, a) (drawn[k] >= THRESHOLD ? to_float(a) * SCALE : 0.0f)
  if (WIDE && first + W <= N) {
    const Vector<T, W> v = fetch_as<true, T, W>(x + first);
    Vector<T, W> w;
    for (int k = 0; k < W; k++) from_float(KEPT(k, v.x[k]), w.x[k]);
    put_as<true, T, W>(y + first, w);
  } else {
    for (int k = 0; k < W; k++) if (first + k < N) from_float(KEPT(k, x[first + k]), y[first + k]);
  }
}
