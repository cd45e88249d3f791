// Element types, vectors of them, and their arithmetic, which is in float32. Without CUDA's headers, so that NVRTC needs no
// path to them; the host's compiler takes it too, for tests without a card.
#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
#else
#define DEVICE static inline
#endif
struct Half { unsigned short bits; };
struct Brain { unsigned short bits; };
template <typename T, int W> struct alignas(sizeof(T) * W) Vector { T x[W]; };
template <bool WIDE, typename T, int W> DEVICE Vector<T, W> fetch_as(const T* from) {
  if (WIDE) return *(const Vector<T, W>*)from;
  Vector<T, W> v;
  for (int k = 0; k < W; k++) v.x[k] = from[k];
  return v;
}
template <bool WIDE, typename T, int W> DEVICE void put_as(T* to, const Vector<T, W>& v) {
  if (WIDE) *(Vector<T, W>*)to = v;
  else for (int k = 0; k < W; k++) to[k] = v.x[k];
}
DEVICE float bits_to_float(unsigned b) { union { unsigned u; float f; } v; v.u = b; return v.f; }
DEVICE unsigned float_to_bits(float f) { union { float f; unsigned u; } v; v.f = f; return v.u; }
DEVICE float to_float(float a) { return a; }
DEVICE float to_float(Brain a) { return bits_to_float((unsigned)a.bits << 16); }
DEVICE void from_float(float a, float& r) { r = a; }
DEVICE void from_float(float a, Brain& r) {
  const unsigned b = float_to_bits(a);
  r.bits = a != a ? 0x7fc0 : (unsigned short)((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
}
#ifdef __CUDACC__
DEVICE float to_float(Half a) { float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(a.bits)); return r; }
DEVICE void from_float(float a, Half& r) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(a)); }
#else
DEVICE float to_float(Half a) { _Float16 h; __builtin_memcpy(&h, &a.bits, 2); return (float)h; }
DEVICE void from_float(float a, Half& r) { _Float16 h = (_Float16)a; __builtin_memcpy(&r.bits, &h, 2); }
#endif
DEVICE float relu(float a) { return a > 0.0f || a != a ? a : 0.0f; }
