// What an attention kernel is told. Sizes are of one sample; rows of queries that exist are the first `queryTokens` of `paddedQueries`.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace octet {

struct AttentionArguments {
  const uint8_t *queries, *keys, *values;
  const float* logitFactor;
  half* out;  // [B, queryTokens, H · 64]
  int batch, heads, queryTokens, paddedQueries, keyTokens, tiles;
};

/** Through `mma`, on every GPU since Ada. */
void attendPortably(const AttentionArguments&, cudaStream_t);

/** Through `wgmma`, on Hopper alone. */
void attendOnHopper(const AttentionArguments&, cudaStream_t);

}  // namespace octet
