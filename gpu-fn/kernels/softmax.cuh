// Attention's softmax over tiles of keys, in the registers of a warp that has 16 rows of queries. Tensor cores leave an accumulator so:
// of each 8 columns a thread has two neighbouring ones of the rows `lane / 4` and `lane / 4 + 8`. FlashAttention, arXiv 2205.14135.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "tiles.cuh"

namespace octet {

/** Logits, then probabilities, of 16 rows and a tile of keys: [8 columns][row · 2 + column]. */
using Logits = float[TILE / 8][4];
using Output = float[DEPTH / 8][4];
/** Probabilities as float16, in the order that a product takes them in from registers. */
using Probabilities = uint32_t[TILE / 16][4];

struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
};

__device__ inline float exp2Approximately(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** Keys from `tokens` on are padding. */
__device__ inline void mask(Logits& logits, int firstToken, int tokens) {
  const int column = firstToken + threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (column + i * 8 + j % 2 >= tokens) logits[i][j] = -INFINITY;
  }
}

/** Logits times `factor` (which includes log2 e) → probabilities relative to the largest so far; what was summed before is scaled to it. */
__device__ inline void accumulate(Softmax& softmax, Logits& logits, Probabilities& probabilities, Output& output, float factor) {
  float shift[2];
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float largest = softmax.largest[row];
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) largest = fmaxf(largest, fmaxf(logits[i][2 * row], logits[i][2 * row + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    const float rescale = exp2Approximately((softmax.largest[row] - largest) * factor);
    softmax.largest[row] = largest;
    softmax.sum[row] *= rescale;
    shift[row] = largest * factor;
    if (__any_sync(~0u, rescale != 1.f)) {
#pragma unroll
      for (int i = 0; i < DEPTH / 8; i++) {
        output[i][2 * row] *= rescale;
        output[i][2 * row + 1] *= rescale;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const float a = exp2Approximately(logits[i][2 * row] * factor - shift[row]);
      const float b = exp2Approximately(logits[i][2 * row + 1] * factor - shift[row]);
      softmax.sum[row] += a + b;
      const half2 pair = __floats2half2_rn(a, b);
      probabilities[i / 2][i % 2 * 2 + row] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
}

/** Divides by the sums and writes 16 rows of one head; `out` is the first row's and `stride` goes from row to row, in float16. */
__device__ inline void writeRows(Softmax& softmax, const Output& output, half* out, int64_t stride, int rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float sum = softmax.sum[row];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int at = lane / 4 + row * 8;
    if (at >= rows) continue;
#pragma unroll
    for (int i = 0; i < DEPTH / 8; i++)
      reinterpret_cast<half2*>(out + at * stride)[i * 4 + lane % 4] =
          __floats2half2_rn(output[i][2 * row] / sum, output[i][2 * row + 1] / sum);
  }
}

}  // namespace octet
