// Gradient: sums of dY Y, then dK and dV by tiles of keys, then dQ by tiles of queries. Nothing is added by atomics.
extern "C" __global__ void __launch_bounds__(128) PREFIX_sums(const float* dy, const float* y, float* delta) {
  const long long row = (long long)blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  const long long query = row % SQ, head = row / SQ % H, batch = row / (SQ * H);
  float sum = 0.0f;
  if (row < B * H * SQ)
    for (int d = lane; d < D; d += 32) {
      const long long at = batch * Y_BATCH + head * Y_HEAD + query * Y_ROW + d;
      sum += dy[at] * y[at];
    }
  for (int reach = 16; reach > 0; reach /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, reach);
  if (row < B * H * SQ && lane == 0) delta[row] = sum;
}
// P and dS of 16 rows by 8 W columns in accumulators, from both products.
extern "C" __global__ void __launch_bounds__(128) PREFIX_keys(
    const float* dy, const float* q, const float* k, const float* v, const float* stats, const float* bias,
    const float* delta, float* dk, float* dv) {
  float *keys = SHARED, *values = SHARED + TILE, *queries = SHARED + 2 * TILE, *gradients = SHARED + 3 * TILE;
  const int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * 16, first = blockIdx.x * 64, kv = blockIdx.y;
  load_tile(keys, k + blockIdx.z * K_BATCH + kv * K_HEAD, first, SK, K_ROW);
  load_tile(values, v + blockIdx.z * V_BATCH + kv * V_HEAD, first, SK, V_ROW);
  float to_k[STEPS][4], to_v[STEPS][4];
  for (int n = 0; n < STEPS; n++) for (int i = 0; i < 4; i++) to_k[n][i] = to_v[n][i] = 0.0f;
  for (int head = kv * GROUP; head < kv * GROUP + GROUP; head++) {
    const long long base = BIAS_BASE, row = ((long long)blockIdx.z * H + head) * SQ;
    for (int at = CAUSAL ? first : 0; at < SQ; at += 64) {
      __syncthreads();
      load_tile(queries, q + blockIdx.z * Q_BATCH + head * Q_HEAD, at, SQ, Q_ROW);
      load_tile(gradients, dy + blockIdx.z * Y_BATCH + head * Y_HEAD, at, SQ, Y_ROW);
      __syncthreads();
#pragma unroll 1
      for (int half = 0; half < 64; half += PART * 8) {
        float p[PART][4], g[PART][4];
        for (int n = 0; n < PART; n++) for (int i = 0; i < 4; i++) p[n][i] = g[n][i] = 0.0f;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
          float a[4], b[2], c[4];
          rows_of(a, keys, mine, step);
          rows_of(c, values, mine, step);
#pragma unroll
          for (int n = 0; n < PART; n++) {
            columns_of(b, queries, half + n * 8, step); mma(p[n], a, b);
            columns_of(b, gradients, half + n * 8, step); mma(g[n], c, b);
          }
        }
#pragma unroll
        for (int n = 0; n < PART; n++)
          for (int i = 0; i < 4; i++) {
            const int key = first + mine + lane / 4 + i / 2 * 8, query = at + half + n * 8 + lane % 4 * 2 + i % 2;
            const bool there = query < SQ;
            const float score = there ? scored(p[n][i], query, key, bias, base) : MINUS_INFINITY;
            p[n][i] = probability(score, stats[row + (there ? query : 0)]);
            g[n][i] = p[n][i] * (g[n][i] - delta[row + (there ? query : 0)]);
          }
#pragma unroll
        for (int m = 0; m < PART; m++) {
          float a[4], b[2], c[4];
          scores_of(a, p[m]);
          scores_of(c, g[m]);
#pragma unroll
          for (int n = 0; n < STEPS; n++) {
            values_of(b, gradients, half + m * 8, n); mma(to_v[n], a, b);
            values_of(b, queries, half + m * 8, n); mma(to_k[n], c, b);
          }
        }
      }
    }
  }
  for (int i = 0; i < 4; i++) {
    const int key = first + mine + lane / 4 + i / 2 * 8;
    if (key >= SK) continue;
    for (int n = 0; n < STEPS; n++) {
      const int column = n * 8 + lane % 4 * 2 + i % 2;
      dk[blockIdx.z * K_BATCH + kv * K_HEAD + key * K_ROW + column] = to_k[n][i] * SCALE;
      dv[blockIdx.z * V_BATCH + kv * V_HEAD + key * V_ROW + column] = to_v[n][i];
    }
  }
}

extern "C" __global__ void __launch_bounds__(128) PREFIX_queries(
    const float* dy, const float* q, const float* k, const float* v, const float* stats, const float* bias,
    const float* delta, float* dq) {
  float *keys = SHARED, *values = SHARED + TILE, *queries = SHARED + 2 * TILE, *gradients = SHARED + 3 * TILE;
  const int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * 16, first = ((int)gridDim.x - 1 - (int)blockIdx.x) * 64;
  const int head = blockIdx.y, kv = head / GROUP;
  const long long base = BIAS_BASE, row = ((long long)blockIdx.z * H + head) * SQ;
  load_tile(queries, q + blockIdx.z * Q_BATCH + head * Q_HEAD, first, SQ, Q_ROW);
  load_tile(gradients, dy + blockIdx.z * Y_BATCH + head * Y_HEAD, first, SQ, Y_ROW);
  float to_q[STEPS][4], stat[2], inner[2];
  for (int n = 0; n < STEPS; n++) for (int i = 0; i < 4; i++) to_q[n][i] = 0.0f;
  for (int i = 0; i < 2; i++) {
    const int query = first + mine + lane / 4 + i * 8;
    stat[i] = query < SQ ? stats[row + query] : 0.0f;
    inner[i] = query < SQ ? delta[row + query] : 0.0f;
  }
  const int end = CAUSAL && first + 64 < SK ? first + 64 : (int)SK;
  for (int at = 0; at < end; at += 64) {
    __syncthreads();
    load_tile(keys, k + blockIdx.z * K_BATCH + kv * K_HEAD, at, SK, K_ROW);
    load_tile(values, v + blockIdx.z * V_BATCH + kv * V_HEAD, at, SK, V_ROW);
    __syncthreads();
#pragma unroll 1
    for (int half = 0; half < 64; half += PART * 8) {
      float p[PART][4], g[PART][4];
      for (int n = 0; n < PART; n++) for (int i = 0; i < 4; i++) p[n][i] = g[n][i] = 0.0f;
#pragma unroll
      for (int step = 0; step < STEPS; step++) {
        float a[4], b[2], c[4];
        rows_of(a, queries, mine, step);
        rows_of(c, gradients, mine, step);
#pragma unroll
        for (int n = 0; n < PART; n++) {
          columns_of(b, keys, half + n * 8, step); mma(p[n], a, b);
          columns_of(b, values, half + n * 8, step); mma(g[n], c, b);
        }
      }
#pragma unroll
      for (int m = 0; m < PART; m++) {
        float a[4], b[2];
        for (int i = 0; i < 4; i++) {
          const int query = first + mine + lane / 4 + i / 2 * 8, key = at + half + m * 8 + lane % 4 * 2 + i % 2;
          const float score = scored(p[m][i], query, key, bias, base);
          g[m][i] = probability(score, stat[i / 2]) * (g[m][i] - inner[i / 2]);
        }
        scores_of(a, g[m]);
#pragma unroll
        for (int n = 0; n < STEPS; n++) { values_of(b, keys, half + m * 8, n); mma(to_q[n], a, b); }
      }
    }
  }
  for (int i = 0; i < 4; i++) {
    const int query = first + mine + lane / 4 + i / 2 * 8;
    if (query >= SQ) continue;
    for (int n = 0; n < STEPS; n++)
      dq[blockIdx.z * Q_BATCH + head * Q_HEAD + query * Q_ROW + n * 8 + lane % 4 * 2 + i % 2] = to_q[n][i] * SCALE;
  }
}
