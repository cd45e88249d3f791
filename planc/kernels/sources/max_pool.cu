// Max-pool of [N, A, B, D, C] (up to three spatial axes, channels last). One thread makes W channels of one output.
#define INDEX const long long first = ((long long)blockIdx.x * 256 + threadIdx.x) * W
typedef Vector<T, W> Packed;
extern "C" __global__ void __launch_bounds__(256) PREFIX_forward(const T* x, T* y, unsigned char* position) {
  INDEX;
  if (first >= Y_SIZE) return;
  const long long c = first % C, at = first / C;
  const long long od = at % OD, ob = at / OD % OB, oa = at / (OD * OB) % OA, n = at / (OD * OB * OA);
  Packed best;
  int where[W];
  for (int k = 0; k < W; k++) where[k] = -1;
  for (int i = 0; i < KA; i++)
    for (int j = 0; j < KB; j++)
      for (int l = 0; l < KD; l++) {
        const long long a = oa * SA - PA + i * DA, b = ob * SB - PB + j * DB, d = od * SD - PD + l * DD;
        if (a < 0 || a >= A || b < 0 || b >= B || d < 0 || d >= D) continue;
        const Packed v = fetch_as<WIDE, T, W>(x + (((n * A + a) * B + b) * D + d) * C + c);
        for (int k = 0; k < W; k++) {
          const float value = to_float(v.x[k]);
          if (where[k] < 0 || value > to_float(best.x[k]) || value != value) {
            best.x[k] = v.x[k];
            where[k] = (i * (int)KB + j) * (int)KD + l;
          }
        }
      }
  put_as<WIDE, T, W>(y + first, best);
  for (int k = 0; k < W; k++) position[first + k] = (unsigned char)where[k];
}
// Every input adds what the windows around it send there, in the order of the windows.
extern "C" __global__ void __launch_bounds__(256) PREFIX_backward(const T* dy, const unsigned char* position, T* dx) {
  INDEX;
  if (first >= X_SIZE) return;
  const long long c = first % C, at = first / C;
  const long long d = at % D, b = at / D % B, a = at / (D * B) % A, n = at / (D * B * A);
  float sum[W];
  for (int k = 0; k < W; k++) sum[k] = 0.0f;
  for (int i = 0; i < KA; i++)
    for (int j = 0; j < KB; j++)
      for (int l = 0; l < KD; l++) {
        const long long u = a + PA - i * DA, v = b + PB - j * DB, w = d + PD - l * DD;
        if (u < 0 || v < 0 || w < 0 || u % SA || v % SB || w % SD) continue;
        const long long oa = u / SA, ob = v / SB, od = w / SD;
        if (oa >= OA || ob >= OB || od >= OD) continue;
        const long long from = (((n * OA + oa) * OB + ob) * OD + od) * C + c;
        const Packed g = fetch_as<WIDE, T, W>(dy + from);
        for (int k = 0; k < W; k++)
          if (position[from + k] == (i * KB + j) * KD + l) sum[k] += to_float(g.x[k]);
      }
  Packed r;
  for (int k = 0; k < W; k++) from_float(sum[k], r.x[k]);
  put_as<WIDE, T, W>(dx + first, r);
}
