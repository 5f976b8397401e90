// Attention's softmax over tiles of keys, in the registers of a warp with 16 rows of queries. In an accumulator of the tensor cores, a
// thread has two adjacent columns of every 8, in rows `lane / 4` and `lane / 4 + 8`. FlashAttention, arXiv 2205.14135.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "rows.cuh"
#include "tiles.cuh"

namespace octet {

/** Logits, then probabilities, of 16 rows and a tile of keys: [8 columns][row · 2 + column]. */
using Logits = float[TILE / 8][4];
/** E4M3 codes of probabilities, in the register order of a product's operand: [32 columns][row + 2 · (column / 16)]. */
using Probabilities = uint32_t[TILE / 32][4];
/**
 * Output accumulators, followed by the sums of the probabilities. The sums are products with a column of ones, so that numerator and
 * denominator use the same rounded probabilities.
 */
using Totals = float[DEPTH / 8 + 1][4];

struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY};
};
/** log2 of the code value of a row's running maximum. E4M3 overflows above 448 and underflows to zero below 2^-10. */
constexpr float LARGEST = 8;

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

__device__ inline void rescale(Totals& totals, const float (&factors)[2]) {
#pragma unroll
  for (int i = 0; i < DEPTH / 8 + 1; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) totals[i][j] *= factors[j / 2];
  }
}

/** Adds `more`, multiplied by the value scale `scale`; the column of ones is not scaled. */
__device__ inline void add(Totals& totals, const Totals& more, float scale) {
#pragma unroll
  for (int i = 0; i < DEPTH / 8 + 1; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) totals[i][j] += i < DEPTH / 8 ? more[i][j] * scale : more[i][j];
  }
}

/** Logits · `factor` (including log2 e) → probabilities relative to the running maximum. Rescales the totals to it. */
__device__ inline void accumulate(Softmax& softmax, const Logits& logits, Probabilities& probabilities, Totals& totals, float factor) {
  float largest[2] = {softmax.largest[0], softmax.largest[1]};
  largestOf(logits, largest);
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
#pragma unroll
    for (int row = 0; row < 2; row++) largest[row] = fmaxf(largest[row], __shfl_xor_sync(~0u, largest[row], distance));
  }
  float shift[2], factors[2];
#pragma unroll
  for (int row = 0; row < 2; row++) {
    factors[row] = exp2Approximately((softmax.largest[row] - largest[row]) * factor);
    shift[row] = largest[row] * factor - LARGEST;
    softmax.largest[row] = largest[row];
  }
  // After a few tiles the maxima rarely change. NaN is not equal to 1.
  if (__any_sync(~0u, factors[0] != 1.f || factors[1] != 1.f)) rescale(totals, factors);
#pragma unroll
  for (int i = 0; i < TILE / 32; i++) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float values[8];
#pragma unroll
      for (int j = 0; j < 8; j++) values[j] = exp2Approximately(logits[i * 4 + j / 2][2 * row + j % 2] * factor - shift[row]);
      const uint2 codes = encode(values, 1.f);
      probabilities[i][row] = codes.x;
      probabilities[i][2 + row] = codes.y;
    }
  }
}

/** Divides by the sums and writes 16 rows of one head to `out`, `stride` float16 values apart. */
__device__ inline void writeRows(const Totals& totals, half* out, int64_t stride, int rows) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float reciprocal = 1.f / totals[DEPTH / 8][2 * row];
    const int at = lane / 4 + row * 8;
    if (at >= rows) continue;
#pragma unroll
    for (int i = 0; i < DEPTH / 8; i++)
      reinterpret_cast<half2*>(out + at * stride)[i * 4 + lane % 4] =
          __floats2half2_rn(totals[i][2 * row] * reciprocal, totals[i][2 * row + 1] * reciprocal);
  }
}

}  // namespace octet
