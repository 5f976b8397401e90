// UnpackFp8 decodes 4-bit FP8 weights to E4M3 codes before their matrix product. Format: compile/checkpoint/formats/fp8-int4.ts.
#include "operators.h"
#include "rows.cuh"

namespace octet {
namespace {

constexpr int GROUP = 32;  // values with one scale byte
/** Values per thread and step: half a group, so that a warp stores 512 consecutive bytes. */
constexpr int UNIT = GROUP / 2;
constexpr int STEPS = 4;
constexpr int THREADS = 256;  // one per table entry

/** Decodes a scale byte: sign, three exponent bits, four mantissa bits. */
__device__ inline float groupScale(uint32_t byte) {
  constexpr uint32_t LEAST_EXPONENT = 125, MANTISSA_BITS = 4;
  const uint32_t magnitude = (byte & 0x7f) + (LEAST_EXPONENT << MANTISSA_BITS);
  return __uint_as_float((byte & 0x80) << 24 | magnitude << (23 - MANTISSA_BITS));
}

/** Codes of integer · scale for the integers -8 to 7. */
__device__ inline uint4 codesOf(float scale) {
  float negative[PACK], positive[PACK];
#pragma unroll
  for (int i = 0; i < PACK; i++) negative[i] = i - 8, positive[i] = i;
  const uint2 a = encode(negative, scale), b = encode(positive, scale);
  return make_uint4(a.x, a.y, b.x, b.y);
}

/** Codes of the four nibbles in the lower 16 bits: bits 0 to 2 of a nibble select a byte from both table halves, bit 3 the half. */
__device__ inline uint32_t lookUp(uint32_t integers, uint4 table) {
  const uint32_t negative = __byte_perm(table.x, table.y, integers), positive = __byte_perm(table.z, table.w, integers);
  return __byte_perm(negative, positive, 0x3210 | (integers & 0x8888) >> 1);
}

/** integers [units], groupScales [units / 2] → codes [units]. A unit is half a group. */
__global__ void __launch_bounds__(THREADS) unpackFp8(const uint2* integers, const uint8_t* groupScales, uint4* codes, int64_t units) {
  __shared__ uint4 table[THREADS];  // by scale byte
  table[threadIdx.x] = codesOf(groupScale(threadIdx.x));
  const int64_t first = int64_t(blockIdx.x) * STEPS * THREADS + threadIdx.x;
  uint2 loaded[STEPS];
  uint8_t bytes[STEPS];
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const int64_t unit = first + step * THREADS;
    if (unit < units) loaded[step] = integers[unit], bytes[step] = groupScales[unit * UNIT / GROUP];
  }
  __syncthreads();
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const int64_t unit = first + step * THREADS;
    if (unit >= units) return;
    const uint2 four = loaded[step];
    const uint4 entry = table[bytes[step]];
    codes[unit] = make_uint4(lookUp(four.x, entry), lookUp(four.x >> 16, entry), lookUp(four.y, entry), lookUp(four.y >> 16, entry));
  }
}

}  // namespace

/**
 * packed [N, K ÷ 32, 16], group scales [N, K ÷ 32] → codes [N, K]. The third input only orders execution: the node runs just before its
 * product.
 */
void UnpackFp8::compute(const Context& context) const {
  const Tensor packed = context.input(0), groupScales = context.input(1);
  require(packed.shape.size() == 3 && packed.width() == GROUP / 2, "takes integers [N, K / 32, 16]");
  require(groupScales.shape == std::vector<int64_t>(packed.shape.begin(), packed.shape.end() - 1), "needs a scale per group");
  const Tensor codes = context.output(0, {packed.shape[0], packed.shape[1] * GROUP});
  const int64_t units = packed.rows() * (GROUP / UNIT);
  if (units == 0) return;
  constexpr int PER_BLOCK = STEPS * THREADS;
  const unsigned blocks = unsigned((units + PER_BLOCK - 1) / PER_BLOCK);
  unpackFp8<<<blocks, THREADS, 0, context.stream()>>>(packed.as<uint2>(), groupScales.as<uint8_t>(), codes.as<uint4>(), units);
}

}  // namespace octet
