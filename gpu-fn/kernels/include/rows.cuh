// Helpers for kernels on rows: loads of 16 bytes, reductions over a warp, FP8 with one scale per row.
#pragma once
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace octet {

constexpr float FP8_MAX = 448.f;
constexpr int WARP = 32;
/** Values that a thread loads at once: 16 bytes of float16. */
constexpr int PACK = 8;

__device__ inline void unpack(uint4 bits, float (&values)[PACK]) {
  const half2* pairs = reinterpret_cast<const half2*>(&bits);
#pragma unroll
  for (int i = 0; i < PACK / 2; i++) {
    const float2 pair = __half22float2(pairs[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

/** Eight values as float16, saturated. */
__device__ inline uint4 pack(const float (&values)[PACK]) {
  constexpr float MOST = 65504.f;
  uint4 bits;
  half2* pairs = reinterpret_cast<half2*>(&bits);
#pragma unroll
  for (int i = 0; i < PACK / 2; i++) {
    const float2 pair = make_float2(values[2 * i], values[2 * i + 1]);
    // Comparisons with NaN are false, so that NaN is kept.
    const float x = pair.x > MOST ? MOST : pair.x < -MOST ? -MOST : pair.x;
    const float y = pair.y > MOST ? MOST : pair.y < -MOST ? -MOST : pair.y;
    pairs[i] = __floats2half2_rn(x, y);
  }
  return bits;
}

__device__ inline void loadFloats(const float* from, float (&values)[PACK]) {
  const float4 a = reinterpret_cast<const float4*>(from)[0];
  const float4 b = reinterpret_cast<const float4*>(from)[1];
  values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
  values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
}

/** Eight E4M3 codes of values × factor; magnitudes above 448 become 448, NaN stays NaN. */
__device__ inline uint2 encode(const float (&values)[PACK], float factor) {
  uint16_t pairs[PACK / 2];
#pragma unroll
  for (int i = 0; i < PACK / 2; i++)
    pairs[i] = __nv_cvt_float2_to_fp8x2(make_float2(values[2 * i] * factor, values[2 * i + 1] * factor), __NV_SATFINITE,
                                        __NV_E4M3);
  return make_uint2(pairs[0] | uint32_t(pairs[1]) << 16, pairs[2] | uint32_t(pairs[3]) << 16);
}

/** Four E4M3 codes, the first in the lowest byte. Magnitudes above 448 saturate; NaN stays NaN. */
__device__ inline uint32_t encode(half2 a, half2 b) {
  uint32_t codes;
  asm("{\n"
      ".reg .b16 a, b;\n"
      "cvt.rn.satfinite.e4m3x2.f16x2 a, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f16x2 b, %2;\n"
      "mov.b32 %0, {a, b};\n"
      "}"
      : "=r"(codes)
      : "r"(*reinterpret_cast<const uint32_t*>(&a)), "r"(*reinterpret_cast<const uint32_t*>(&b)));
  return codes;
}

__device__ inline float warpSum(float value) {
#pragma unroll
  for (int mask = WARP / 2; mask; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}

/** The larger of two magnitudes, or NaN if either is NaN, so that a row with NaN has the scale NaN. */
__device__ inline float larger(float a, float b) { return a > b || a != a ? a : b; }

__device__ inline float warpMax(float value) {
#pragma unroll
  for (int mask = WARP / 2; mask; mask /= 2) value = larger(value, __shfl_xor_sync(~0u, value, mask));
  return value;
}

/** A row's scale: its largest magnitude ÷ 448, or 1 for a row of zeros. Infinity counts as the largest float. */
__device__ inline float scaleOf(float largest) {
  constexpr float MOST = 3.4028234e38f, LEAST = 1e-35f;
  if (largest < LEAST) return 1.f;
  return (largest > MOST ? MOST : largest) / FP8_MAX;
}

}  // namespace octet
