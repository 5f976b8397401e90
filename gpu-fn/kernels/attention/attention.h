// Arguments of the attention kernels. Sizes are those of one sample; of `paddedQueries` rows, the first `queryTokens` are queries.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace octet {

struct AttentionArguments {
  const uint8_t *queries, *keys, *values;
  const float* valueScales;  // of each tile
  const float* logitFactor;
  half* out;  // [B, queryTokens, H · 64]
  int batch, heads, queryTokens, paddedQueries, keyTokens, tiles;
};

/** With `mma`, on every GPU since Ada. */
void attendPortably(const AttentionArguments&, cudaStream_t);

/** With `wgmma`, on Hopper only. */
void attendOnHopper(const AttentionArguments&, cudaStream_t);

}  // namespace octet
