// Attention's softmax over tiles of keys, in the registers of a warp with 16 rows of queries. In an accumulator of the tensor cores, a
// thread has two adjacent columns of every 8, in rows `lane / 4` and `lane / 4 + 8`. FlashAttention, arXiv 2205.14135.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "tiles.cuh"

namespace octet {

/** Logits, then probabilities, of 16 rows and a tile of keys: [8 columns][row · 2 + column]. */
using Logits = float[TILE / 8][4];
using Output = float[DEPTH / 8][4];
/** Probabilities as float16, in the register order of a product's operand. */
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

/** Updates the largest logit of each row among the thread's columns. Several independent chains hide the latency of a warp's maxima. */
__device__ inline void largestOf(const Logits& logits, float (&largest)[2]) {
  constexpr int CHAINS = 4;
  float chains[2][CHAINS];
#pragma unroll
  for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const float pair = fmaxf(logits[i][2 * row], logits[i][2 * row + 1]);
      chains[row][i % CHAINS] = i < CHAINS ? pair : fmaxf(chains[row][i % CHAINS], pair);
    }
  }
#pragma unroll
  for (int row = 0; row < 2; row++)
    largest[row] = fmaxf(fmaxf(largest[row], fmaxf(chains[row][0], chains[row][1])), fmaxf(chains[row][2], chains[row][3]));
}

/** Logits times `factor` (which includes log2 e) → probabilities relative to the largest so far, to which earlier sums are rescaled. */
__device__ inline void accumulate(Softmax& softmax, Logits& logits, Probabilities& probabilities, Output& output, float factor) {
  float largest[2] = {softmax.largest[0], softmax.largest[1]};
  largestOf(logits, largest);
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
#pragma unroll
    for (int row = 0; row < 2; row++) largest[row] = fmaxf(largest[row], __shfl_xor_sync(~0u, largest[row], distance));
  }
  float shift[2], rescale[2];
#pragma unroll
  for (int row = 0; row < 2; row++) {
    rescale[row] = exp2Approximately((softmax.largest[row] - largest[row]) * factor);
    shift[row] = largest[row] * factor;
    softmax.largest[row] = largest[row];
    softmax.sum[row] *= rescale[row];
  }
  // After a few tiles the maxima rarely change. NaN is not equal to 1.
  if (__any_sync(~0u, rescale[0] != 1.f || rescale[1] != 1.f)) {
#pragma unroll
    for (int i = 0; i < DEPTH / 8; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) output[i][j] *= rescale[j / 2];
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

/** Divides by the sums and writes 16 rows of one head to `out`, `stride` float16 values apart. */
__device__ inline void writeRows(const float (&sums)[2], const float (*output)[4], half* out, int64_t stride, int rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float reciprocal = 1.f / sums[row];
    const int at = lane / 4 + row * 8;
    if (at >= rows) continue;
#pragma unroll
    for (int i = 0; i < DEPTH / 8; i++)
      reinterpret_cast<half2*>(out + at * stride)[i * 4 + lane % 4] =
          __floats2half2_rn(output[i][2 * row] * reciprocal, output[i][2 * row + 1] * reciprocal);
  }
}

}  // namespace octet
