// Rows of K elements, GROUP threads a row, each PER vectors of W: what both directions of a norm read and add up.
typedef Vector<T, W> Packed;
#define PLACE_IN_ROW(p) (((long long)(p) * GROUP + threadIdx.x % GROUP) * W)
#define INSIDE(at) (K % (GROUP * W) == 0 || (at) < K)
template <typename E> DEVICE void load_row(const E* row, bool live, float to[PER][W]) {
#pragma unroll
  for (int p = 0; p < PER; p++) {
    const long long at = PLACE_IN_ROW(p);
    if (live && INSIDE(at)) {
      const Vector<E, W> v = fetch_as<WIDE, E, W>(row + at);
      for (int k = 0; k < W; k++) to[p][k] = to_float(v.x[k]);
    } else
      for (int k = 0; k < W; k++) to[p][k] = 0.0f;
  }
}
