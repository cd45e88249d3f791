// What both directions of batch-norm compute of a channel.
DEVICE float gain_of(float variance, float scale) { return (1.0f / sqrtf(variance + EPSILON)) * scale; }
#define CHANNEL_VECTORS \
  float gain[W], centre[W], shift[W], variances[W]; \
  floats(scale + c, gain); floats(mean + c, centre); floats(bias + c, shift); floats(variance + c, variances); \
  for (int k = 0; k < W; k++) gain[k] = gain_of(variances[k], gain[k]);
