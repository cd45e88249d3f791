// Forward: a block has 64 queries of one head and goes over the keys.
extern "C" __global__ void __launch_bounds__(128) PREFIX_forward(
    const float* q, const float* k, const float* v, const float* bias, float* y, float* stats) {
  float *keys = SHARED, *values = SHARED + TILE, *queries = SHARED + 2 * TILE;
  const int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * 16, first = ((int)gridDim.x - 1 - (int)blockIdx.x) * 64;
  const int head = blockIdx.y, kv = head / GROUP;
  const long long base = BIAS_BASE;
  load_tile(queries, q + blockIdx.z * Q_BATCH + head * Q_HEAD, first, SQ, Q_ROW);
  float out[STEPS][4], top[2], sum[2];
  for (int n = 0; n < STEPS; n++) for (int i = 0; i < 4; i++) out[n][i] = 0.0f;
  for (int i = 0; i < 2; i++) { top[i] = MINUS_INFINITY; sum[i] = 0.0f; }
  const int end = CAUSAL && first + 64 < SK ? first + 64 : (int)SK;
  for (int at = 0; at < end; at += 64) {
    __syncthreads();
    load_tile(keys, k + blockIdx.z * K_BATCH + kv * K_HEAD, at, SK, K_ROW);
    load_tile(values, v + blockIdx.z * V_BATCH + kv * V_HEAD, at, SK, V_ROW);
    __syncthreads();
    float s[8][4];
    for (int n = 0; n < 8; n++) for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      float a[4], b[2];
      rows_of(a, queries, mine, step);
#pragma unroll
      for (int n = 0; n < 8; n++) { columns_of(b, keys, n * 8, step); mma(s[n], a, b); }
    }
    float most[2] = {top[0], top[1]};
#pragma unroll
    for (int n = 0; n < 8; n++)
      for (int i = 0; i < 4; i++) {
        const int query = first + mine + lane / 4 + i / 2 * 8, key = at + n * 8 + lane % 4 * 2 + i % 2;
        s[n][i] = scored(s[n][i], query, key, bias, base);
        most[i / 2] = fmaxf(most[i / 2], s[n][i]);
      }
    float safe[2], shrink[2];
    for (int i = 0; i < 2; i++) {
      most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 1));
      most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 2));
      safe[i] = most[i] == MINUS_INFINITY ? 0.0f : most[i];
      shrink[i] = exp2f(top[i] - safe[i]);
      top[i] = most[i];
      sum[i] *= shrink[i];
    }
    for (int n = 0; n < STEPS; n++) for (int i = 0; i < 4; i++) out[n][i] *= shrink[i / 2];
#pragma unroll
    for (int m = 0; m < 8; m++) {
      float a[4], b[2];
      for (int i = 0; i < 4; i++) { s[m][i] = exp2f(s[m][i] - safe[i / 2]); sum[i / 2] += s[m][i]; }
      scores_of(a, s[m]);
#pragma unroll
      for (int n = 0; n < STEPS; n++) { values_of(b, values, m * 8, n); mma(out[n], a, b); }
    }
  }
  for (int i = 0; i < 2; i++) {
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
    sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
    const int query = first + mine + lane / 4 + i * 8;
    if (query >= SQ) continue;
    const float inverse = 1.0f / sum[i];
    float* to = y + blockIdx.z * Y_BATCH + head * Y_HEAD + query * Y_ROW;
    for (int n = 0; n < STEPS; n++)
      for (int j = 0; j < 2; j++) to[n * 8 + lane % 4 * 2 + j] = out[n][i * 2 + j] * inverse;
    if (lane % 4 == 0) stats[((long long)blockIdx.z * H + head) * SQ + query] = STATISTIC(top[i], sum[i]);
  }
}
