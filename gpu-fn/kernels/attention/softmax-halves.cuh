// The softmax of softmax.cuh with logits as float16 pairs, with half the registers and instructions. Exponentials are computed directly as
// E4M3 codes, without the special function unit, which would otherwise limit throughput.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "softmax.cuh"

namespace octet {

/** Logits of 16 rows and a tile of keys, as pairs of adjacent columns: [16 columns][row + 2 · (column / 8)]. */
using HalfLogits = uint32_t[TILE / 16][4];

/**
 * State of a thread's two rows. The code of a probability is logit · factor + offset, rounded to an integer. E4M3 has 3 mantissa bits below
 * the exponent: the code increases by 8 when the value doubles, and the value is linear in the code between powers of two, 0 to 6 % above
 * 2^x. Schraudolph, "A fast, compact approximation of the exponential function", 1999.
 * `factor` includes 8 · log2 e. `offset` is lowered only if a code would exceed MOST, not for every new maximum. The row's largest code is
 * then AFTER_LOWERING.
 */
struct HalfSoftmax {
  half2 factor, offset = __float2half2_rn(INFINITY);

  /** `factor`: log2 of a probability per unit of logit. Clamped to be positive, because 0 times a masked logit (-infinity) is NaN. */
  __device__ explicit HalfSoftmax(float factor) : factor(__float2half2_rn(fmaxf(8 * factor, 6e-8f))) {}
};
/** Codes of the values 384 and 32. The largest finite code is 126 (448). */
constexpr float MOST = 124, AFTER_LOWERING = 96;

__device__ inline half2 pairOf(uint32_t bits) { return *reinterpret_cast<const half2*>(&bits); }
__device__ inline uint32_t bitsOf(half2 pair) { return *reinterpret_cast<const uint32_t*>(&pair); }

/** Keys from `tokens` on are padding. */
__device__ inline void mask(HalfLogits& logits, int firstToken, int tokens) {
  constexpr uint32_t BOTH = 0xfc00fc00, SECOND = 0xfc000000;  // -infinity
  const int column = firstToken + threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < TILE / 16; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int left = tokens - column - i * 16 - j / 2 * 8;
      logits[i][j] = left > 1 ? logits[i][j] : left == 1 ? (logits[i][j] & 0xffff) | SECOND : BOTH;
    }
  }
}

__device__ inline half2 largestOf(const HalfLogits& logits, int row) {
  constexpr int CHAINS = 4;
  half2 chains[CHAINS];
#pragma unroll
  for (int i = 0; i < TILE / 16; i++) {
    const half2 pair = __hmax2(pairOf(logits[i][row]), pairOf(logits[i][2 + row]));
    chains[i % CHAINS] = i < CHAINS ? pair : __hmax2(chains[i % CHAINS], pair);
  }
  return __hmax2(__hmax2(chains[0], chains[1]), __hmax2(chains[2], chains[3]));
}

/** Logits → probability codes. Negative results become zero, NaN stays NaN. */
__device__ inline void exponentiate(const HalfSoftmax& softmax, const HalfLogits& logits, Probabilities& probabilities) {
  const half2 offsets[2] = {__low2half2(softmax.offset), __high2half2(softmax.offset)};
  const half2 integer = __float2half2_rn(1024);  // a float16 from 1024 on is an integer, in its low byte up to 1279
#pragma unroll
  for (int i = 0; i < TILE / 16; i++) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const half2 a = __hadd2(__hfma2_relu(pairOf(logits[i][row]), softmax.factor, offsets[row]), integer);
      const half2 b = __hadd2(__hfma2_relu(pairOf(logits[i][2 + row]), softmax.factor, offsets[row]), integer);
      probabilities[i / 2][i % 2 * 2 + row] = __byte_perm(bitsOf(a), bitsOf(b), 0x6420);
    }
  }
}

/** Logits → probabilities. If a code would exceed MOST, lowers the offset and rescales `recent` and `totals`. */
__device__ inline void accumulate(HalfSoftmax& softmax, const HalfLogits& logits, Probabilities& probabilities, Totals& recent,
                                  Totals& totals) {
  exponentiate(softmax, logits, probabilities);
  // Both rows in one pair, so that one shuffle exchanges them.
  const half2 first = largestOf(logits, 0), second = largestOf(logits, 1);
  half2 largest = __hmax2(__lows2half2(first, second), __highs2half2(first, second));
  largest = __hmax2(largest, __shfl_xor_sync(~0u, largest, 1));
  largest = __hmax2(largest, __shfl_xor_sync(~0u, largest, 2));
  const half2 code = __hfma2(largest, softmax.factor, softmax.offset);
  if (!__any_sync(~0u, !__hble2(code, __float2half2_rn(MOST)))) return;

  const half2 lowered = __hmin2(__hfma2(__hneg2(largest), softmax.factor, __float2half2_rn(AFTER_LOWERING)), softmax.offset);
  const float factors[2] = {exp2Approximately((__low2float(lowered) - __low2float(softmax.offset)) / 8),
                            exp2Approximately((__high2float(lowered) - __high2float(softmax.offset)) / 8)};
  softmax.offset = lowered;
  rescale(recent, factors);
  rescale(totals, factors);
  exponentiate(softmax, logits, probabilities);
}

}  // namespace octet
