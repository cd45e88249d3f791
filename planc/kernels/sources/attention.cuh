// Scaled dot-product attention in float32 with products in TF32 (m16n8k8), never a matrix of probabilities in memory (Dao et
// al., FlashAttention, 2022; FlashAttention-2, 2023). A block of four warps has a tile of 64 rows, 16 of each warp.
//
// Tiles lie in shared memory with rows of LDS floats, rounded to TF32: with four floats of padding, the fragments of the
// second operand are read without bank conflicts, both along rows (K in Q K') and across them (V in P V). Scores come out
// of one product as accumulators and go into the next as its first operand without leaving their registers: within eight
// neighbours the k-th place stands for the (2k)-th or, behind the fourth, the (2k - 7)-th.
#define LDS (D + 4)
#define TILE (64 * LDS)
#define STEPS (D / 8)
#define LOG2E 1.4426950408889634f
#ifdef __CUDACC__
extern __shared__ float shared_floats[];
#define SHARED shared_floats
#define MINUS_INFINITY __int_as_float(0xff800000)
DEVICE float tf32(float v) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return __uint_as_float(r);
}
DEVICE void mma(float* c, const float* a, const float* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#else
#define SHARED ((float*)dynamic_shared)
#define MINUS_INFINITY (-INFINITY)
DEVICE float tf32(float v) { return host_tf32(v); }
DEVICE void mma(float* c, const float* a, const float* b) { host_mma(c, a, b); }
#endif

// 64 rows from `first` on of a matrix whose rows are `stride` apart; zeros behind `rows`.
DEVICE void load_tile(float* to, const float* from, int first, int rows, long long stride) {
  for (int i = threadIdx.x; i < 64 * (D / 4); i += 128) {
    const int row = i / (D / 4), column = i % (D / 4) * 4;
    Vector<float, 4> v;
    for (int k = 0; k < 4; k++) v.x[k] = 0.0f;
    if (first + row < rows) v = fetch_as<WIDE, float, 4>(from + (first + row) * stride + column);
    for (int k = 0; k < 4; k++) v.x[k] = tf32(v.x[k]);
    *(Vector<float, 4>*)(to + row * LDS + column) = v;
  }
}
// The first operand: rows `row` + 0..15 and columns 8 `step` + 0..7 of a tile.
DEVICE void rows_of(float* a, const float* tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  const float* at = tile + (row + lane / 4) * LDS + step * 8 + lane % 4;
  a[0] = at[0]; a[1] = at[8 * LDS]; a[2] = at[4]; a[3] = at[8 * LDS + 4];
}
// The second operand of a product with a tile's transpose: its rows `row` + 0..7, columns 8 `step` + 0..7.
DEVICE void columns_of(float* b, const float* tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  const float* at = tile + (row + lane / 4) * LDS + step * 8 + lane % 4;
  b[0] = at[0]; b[1] = at[4];
}
// The second operand of a product of scores with a tile: its rows `row` + 0..7 in the places of scores, columns 8 `step` + 0..7.
DEVICE void values_of(float* b, const float* tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  const float* at = tile + (row + lane % 4 * 2) * LDS + step * 8 + lane / 4;
  b[0] = at[0]; b[1] = at[LDS];
}
// Accumulators as the first operand.
DEVICE void scores_of(float* a, const float* c) { a[0] = tf32(c[0]); a[1] = tf32(c[2]); a[2] = tf32(c[1]); a[3] = tf32(c[3]); }

// What is kept of a row: the logarithm of its sum of exponentials. Where finite numbers hide all keys, every score is as
// low as the highest, and a sum of both would lose the logarithm of their number: that is kept, in units of FAR.
#define FAR 1e30f
#define STATISTIC(top, sum) \
  ((top) < -FAR && (top) > MINUS_INFINITY ? FAR * (1.0f + logf(sum)) : (top) / LOG2E + logf(sum))
// A row without any key has no P.
DEVICE float probability(float score, float stat) {
  if (score == MINUS_INFINITY) return 0.0f;
  return exp2f(stat > 0.1f * FAR ? (1.0f - stat * (1.0f / FAR)) * LOG2E : score - stat * LOG2E);
}

// A score in units of log2, what is masked at minus infinity; what is hidden by the lowest numbers stays finite.
DEVICE float scored(float dot, int query, int key, const float* bias, long long base) {
  if (key >= SK || (CAUSAL && key > query)) return MINUS_INFINITY;
  float s = dot * SCALE;
  if (BIASED && query < SQ) s += bias[base + query * BIAS_ROW + key * BIAS_COLUMN];
  return s > MINUS_INFINITY ? fmaxf(s * LOG2E, -3.4028235e38f) : s;
}
#define BIAS_BASE (BIASED ? blockIdx.z * BIAS_BATCH + head * BIAS_HEAD : 0)
