// What both directions of batch-norm compute of a channel.
DEVICE float gain_of(float variance, float scale) { return (1.0f / sqrtf(variance + EPSILON)) * scale; }
#define CHANNEL_VECTORS \
  float gain[W], centre[W], shift[W]; \
  for (int k = 0; k < W; k++) { \
    gain[k] = gain_of(variance[c + k], scale[c + k]); \
    centre[k] = mean[c + k]; \
    shift[k] = bias[c + k]; \
  }
