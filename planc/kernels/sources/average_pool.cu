// Average-pool of [N, A, B, D, C] (up to three spatial axes, channels last). One thread makes W channels of one position.
#define INDEX const long long first = ((long long)blockIdx.x * 256 + threadIdx.x) * W
typedef Vector<T, W> Packed;
// How many positions of one axis a window averages: those inside, or with PADDED those of the padded input.
DEVICE long long counted(long long start, long long kernel, long long size, long long after) {
  const long long low = PADDED ? start : start < 0 ? 0 : start, high = PADDED ? size + after : size;
  return (start + kernel < high ? start + kernel : high) - low;
}
DEVICE float share(long long oa, long long ob, long long od) {
  return 1.0f / (float)(counted(oa * SA - PA, KA, A, QA) * counted(ob * SB - PB, KB, B, QB) * counted(od * SD - PD, KD, D, QD));
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_forward(const T* x, T* y) {
  INDEX;
  if (first >= Y_SIZE) return;
  const long long c = first % C, at = first / C;
  const long long od = at % OD, ob = at / OD % OB, oa = at / (OD * OB) % OA, n = at / (OD * OB * OA);
  float sum[W];
  for (int k = 0; k < W; k++) sum[k] = 0.0f;
  for (int i = 0; i < KA; i++)
    for (int j = 0; j < KB; j++)
      for (int l = 0; l < KD; l++) {
        const long long a = oa * SA - PA + i, b = ob * SB - PB + j, d = od * SD - PD + l;
        if (a < 0 || a >= A || b < 0 || b >= B || d < 0 || d >= D) continue;
        const Packed v = fetch_as<WIDE, T, W>(x + (((n * A + a) * B + b) * D + d) * C + c);
        for (int k = 0; k < W; k++) sum[k] += to_float(v.x[k]);
      }
  const float part = share(oa, ob, od);
  Packed r;
  for (int k = 0; k < W; k++) from_float(sum[k] * part, r.x[k]);
  put_as<WIDE, T, W>(y + first, r);
}
extern "C" __global__ void __launch_bounds__(256) PREFIX_backward(const T* dy, T* dx) {
  INDEX;
  if (first >= X_SIZE) return;
  const long long c = first % C, at = first / C;
  const long long d = at % D, b = at / D % B, a = at / (D * B) % A, n = at / (D * B * A);
  float sum[W];
  for (int k = 0; k < W; k++) sum[k] = 0.0f;
  for (int i = 0; i < KA; i++)
    for (int j = 0; j < KB; j++)
      for (int l = 0; l < KD; l++) {
        const long long u = a + PA - i, v = b + PB - j, w = d + PD - l;
        if (u < 0 || v < 0 || w < 0 || u % SA || v % SB || w % SD) continue;
        const long long oa = u / SA, ob = v / SB, od = w / SD;
        if (oa >= OA || ob >= OB || od >= OD) continue;
        const float part = share(oa, ob, od);
        const Packed g = fetch_as<WIDE, T, W>(dy + (((n * OA + oa) * OB + ob) * OD + od) * C + c);
        for (int k = 0; k < W; k++) sum[k] = fmaf(to_float(g.x[k]), part, sum[k]);
      }
  Packed r;
  for (int k = 0; k < W; k++) from_float(sum[k], r.x[k]);
  put_as<WIDE, T, W>(dx + first, r);
}
