// The softmax of softmax.cuh with logits as pairs of float16, which takes half the registers and half the instructions.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "softmax.cuh"

namespace octet {

/** Logits of 16 rows and a tile of keys, as pairs of adjacent columns: [16 columns][row + 2 · (column / 8)]. */
using HalfLogits = uint32_t[TILE / 16][4];

/**
 * Of a thread's two rows: probabilities are 2^(logit · factor − shift). `factor` includes log2 e. `shift` is raised only if a probability
 * exceeds 2^MOST, so that probabilities do not depend on the maximum of their own tile. The row's largest one is then 2^AFTER_RAISE.
 */
struct HalfSoftmax {
  half2 factor, shift = __float2half2_rn(-INFINITY);

  /** The factor must not be zero, because masked logits are infinite. */
  __device__ explicit HalfSoftmax(float factor) : factor(__float2half2_rn(fmaxf(factor, 6e-8f))) {}
};
/** E4M3 ends at 448. It is as precise from there down to 2^-6, and zero below 2^-10. */
constexpr float MOST = 8, AFTER_RAISE = 5;

__device__ inline half2 pairOf(uint32_t bits) { return *reinterpret_cast<const half2*>(&bits); }
__device__ inline uint32_t bitsOf(half2 pair) { return *reinterpret_cast<const uint32_t*>(&pair); }

__device__ inline half2 exp2OfPair(half2 x) {
  uint32_t y;
  asm("ex2.approx.f16x2 %0, %1;" : "=r"(y) : "r"(bitsOf(x)));
  return pairOf(y);
}

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

/** Logits → probabilities relative to the shift. */
__device__ inline void exponentiate(const HalfSoftmax& softmax, const HalfLogits& logits, Probabilities& probabilities) {
  const half2 down[2] = {__hneg2(__low2half2(softmax.shift)), __hneg2(__high2half2(softmax.shift))};
#pragma unroll
  for (int i = 0; i < TILE / 16; i++) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const half2 a = exp2OfPair(__hfma2(pairOf(logits[i][row]), softmax.factor, down[row]));
      const half2 b = exp2OfPair(__hfma2(pairOf(logits[i][2 + row]), softmax.factor, down[row]));
      probabilities[i / 2][i % 2 * 2 + row] = encode(a, b);
    }
  }
}

/** Logits → probabilities. If one exceeds 2^MOST, the shift is raised and both parts of the totals are rescaled. */
__device__ inline void accumulate(HalfSoftmax& softmax, const HalfLogits& logits, Probabilities& probabilities, Totals& recent,
                                  Totals& totals) {
  exponentiate(softmax, logits, probabilities);
  // Both rows in one pair, so that one shuffle exchanges them.
  const half2 first = largestOf(logits, 0), second = largestOf(logits, 1);
  half2 largest = __hmax2(__lows2half2(first, second), __highs2half2(first, second));
  largest = __hmax2(largest, __shfl_xor_sync(~0u, largest, 1));
  largest = __hmax2(largest, __shfl_xor_sync(~0u, largest, 2));
  // Rounded as the exponents of the probabilities are.
  const half2 exponent = __hfma2(largest, softmax.factor, __hneg2(softmax.shift));
  if (!__any_sync(~0u, !__hble2(exponent, __float2half2_rn(MOST)))) return;

  const half2 shift = __hmax2(__hfma2(largest, softmax.factor, __float2half2_rn(-AFTER_RAISE)), softmax.shift);
  const float factors[2] = {exp2Approximately(__low2float(softmax.shift) - __low2float(shift)),
                            exp2Approximately(__high2float(softmax.shift) - __high2float(shift))};
  softmax.shift = shift;
  rescale(recent, factors);
  rescale(totals, factors);
  exponentiate(softmax, logits, probabilities);
}

}  // namespace octet
