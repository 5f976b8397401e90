// stream' = stream + Σ gate · branch, then for one or two modulations LayerNorm(stream') · scale + shift, quantised a row: all that
// stands between two matrix products of a block, in one pass. A block has a row; a thread keeps eight values in registers.
#include "operators.h"
#include "rows.cuh"

namespace octet {
namespace {

constexpr int MOST_BRANCHES = 2, MOST_MODULATIONS = 2;
constexpr int MOST_WARPS = 16;  // of a row: 4096 values

struct Modulation {
  const float *shift, *scale;
  uint2* codes;
  float* scales;
};
struct Branch {
  const uint4* value;
  const float* gate;
};
struct Arguments {
  const uint4* stream;
  uint4* sum;  // null where no branch is pending
  Branch branches[MOST_BRANCHES];
  Modulation modulations[MOST_MODULATIONS];
  int branchCount, modulationCount;
  int rows, rowsPerSample, packs;
  int64_t modulationWidth;
  float branchFactor, epsilon;
};

/** Combines a value of each thread of the block, in every thread. `partial` is not used again. */
template <class Combine>
__device__ inline float combine(float value, float (&partial)[MOST_WARPS], Combine of) {
#pragma unroll
  for (int mask = WARP / 2; mask; mask /= 2) value = of(value, __shfl_xor_sync(~0u, value, mask));
  if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
  __syncthreads();
  value = partial[0];
  for (int i = 1; i < int(blockDim.x) / WARP; i++) value = of(value, partial[i]);
  return value;
}
__device__ inline float add(float a, float b) { return a + b; }

__global__ void __launch_bounds__(MOST_WARPS* WARP) modulateQuantise(const Arguments a) {
  __shared__ float partial[2 + MOST_MODULATIONS][MOST_WARPS];
  const int row = blockIdx.x, at = threadIdx.x;
  const bool exists = at < a.packs;  // whole warps take part in the sums
  const int64_t here = int64_t(row) * a.packs + at;
  const int64_t vector = row / a.rowsPerSample * a.modulationWidth + at * PACK;

  // What the first modulation needs is asked for at once, so that it has come when the sums are there.
  float values[PACK] = {}, shift[PACK] = {}, scale[PACK] = {};
  if (exists) {
    unpack(a.stream[here], values);
    loadFloats(a.modulations[0].shift + vector, shift);
    loadFloats(a.modulations[0].scale + vector, scale);
#pragma unroll
    for (int b = 0; b < MOST_BRANCHES; b++) {
      if (b >= a.branchCount) break;
      float added[PACK], gate[PACK];
      unpack(a.branches[b].value[here], added);
      loadFloats(a.branches[b].gate + vector, gate);
#pragma unroll
      for (int i = 0; i < PACK; i++) values[i] += gate[i] * a.branchFactor * added[i];
    }
    if (a.sum) a.sum[here] = pack(values);
  }
  const float count = float(a.packs * PACK);
  float total = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < PACK; i++) total += values[i];
  const float mean = combine(total, partial[0], add) / count;
#pragma unroll
  for (int i = 0; i < PACK; i++) {
    if (exists) values[i] -= mean;
    squares += values[i] * values[i];
  }
  const float reciprocal = rsqrtf(combine(squares, partial[1], add) / count + a.epsilon);

#pragma unroll
  for (int m = 0; m < MOST_MODULATIONS; m++) {
    if (m >= a.modulationCount) break;
    const Modulation modulation = a.modulations[m];
    float largest = 0, normed[PACK] = {};
    if (exists) {
      if (m > 0) {
        loadFloats(modulation.shift + vector, shift);
        loadFloats(modulation.scale + vector, scale);
      }
#pragma unroll
      for (int i = 0; i < PACK; i++) {
        normed[i] = values[i] * reciprocal * scale[i] + shift[i];
        largest = larger(fabsf(normed[i]), largest);
      }
    }
    const float rowScale = scaleOf(combine(largest, partial[2 + m], larger));
    if (at == 0) modulation.scales[row] = rowScale;
    if (exists) modulation.codes[here] = encode(normed, 1.f / rowScale);
  }
}

}  // namespace

/** stream [B, S, D] with at most 2 branches [B, S, D], modulation [B, M] → stream', then codes [B, S, D] and scales [B, S] for each modulation. */
ModulateQuantise::ModulateQuantise(const Attributes& attributes)
    : shifts(attributes.integers("shifts")),
      scales(attributes.integers("scales")),
      gates(attributes.integers("gates")),
      branchFactor(attributes.number("branch_factor", 1)),
      epsilon(attributes.number("epsilon", 1e-6f)) {
  require(!shifts.empty() && shifts.size() <= MOST_MODULATIONS && scales.size() == shifts.size() && gates.size() <= MOST_BRANCHES,
          "1 or 2 modulations and at most 2 gates are allowed");
}

void ModulateQuantise::compute(const Context& context) const {
  const Tensor stream = context.input(0), modulation = context.input(1);
  require(stream.shape.size() == 3 && modulation.shape.size() == 2 && modulation.shape[0] == stream.shape[0],
          "takes a stream [B, S, D] and a modulation [B, M]");
  const int64_t width = stream.width();
  const int64_t warps = (width / PACK + WARP - 1) / WARP;
  require(width % PACK == 0 && warps >= 1 && warps <= MOST_WARPS, "the width must be a multiple of 8 and at most 4096");

  Arguments a = {};
  a.stream = stream.as<uint4>();
  a.branchCount = int(gates.size());
  a.modulationCount = int(shifts.size());
  a.rows = int(stream.rows());
  a.rowsPerSample = int(stream.shape[1]);
  a.packs = int(width / PACK);
  a.modulationWidth = modulation.width();
  a.branchFactor = branchFactor;
  a.epsilon = epsilon;
  const auto vector = [&](int64_t offset) {
    require(offset >= 0 && offset % PACK == 0 && offset + width <= modulation.width(), "an offset lies outside the modulation");
    return modulation.as<float>() + offset;
  };
  for (size_t i = 0; i < gates.size(); i++) {
    const Tensor branch = context.input(2 + i);
    require(branch && branch.shape == stream.shape, "a gate has no branch of the stream's shape");
    a.branches[i] = {branch.as<uint4>(), vector(gates[i])};
  }
  const Tensor sum = context.output(0, stream.shape);
  a.sum = sum.as<uint4>();
  for (size_t i = 0; i < shifts.size(); i++) {
    const Tensor codes = context.output(1 + 2 * i, stream.shape);
    const Tensor rowScales = context.output(2 + 2 * i, {stream.shape[0], stream.shape[1]});
    a.modulations[i] = {vector(shifts[i]), vector(scales[i]), codes.as<uint2>(), rowScales.as<float>()};
  }
  if (a.rows > 0) modulateQuantise<<<a.rows, unsigned(warps * WARP), 0, context.stream()>>>(a);
}

}  // namespace octet
