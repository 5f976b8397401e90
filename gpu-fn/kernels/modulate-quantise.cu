// stream' = stream + Σ gate · branch, then for one or two modulations LayerNorm(stream') · scale + shift, quantised a row: all that
// stands between two matrix products of a block, in one pass. A warp has a row and keeps it in registers.
#include "operators.h"
#include "rows.cuh"

namespace octet {
namespace {

constexpr int ROWS = 4;  // a block's
constexpr int MOST_BRANCHES = 2, MOST_MODULATIONS = 2;

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
  int branchCount;
  int rows, rowsPerSample, packs;
  int64_t modulationWidth;
  float branchFactor, epsilon;
};

/** `STEPS`: packs of eight that a lane has of a row. The count of modulations is fixed too, for the last one takes the values' registers. */
template <int STEPS, int MODULATIONS>
__global__ void __launch_bounds__(ROWS* WARP) modulateQuantise(const Arguments a) {
  const int row = blockIdx.x * ROWS + threadIdx.x / WARP;
  const int lane = threadIdx.x % WARP;
  if (row >= a.rows) return;
  const int64_t sample = row / a.rowsPerSample * a.modulationWidth;
  const int64_t base = int64_t(row) * a.packs;

  float values[STEPS][PACK];
  float total = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const int at = lane + step * WARP;
    if (at < a.packs) unpack(a.stream[base + at], values[step]);
  }
  for (int b = 0; b < a.branchCount; b++) {
    const Branch branch = a.branches[b];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const int at = lane + step * WARP;
      if (at >= a.packs) continue;
      float added[PACK], gate[PACK];
      unpack(branch.value[base + at], added);
      loadFloats(branch.gate + sample + at * PACK, gate);
#pragma unroll
      for (int i = 0; i < PACK; i++) values[step][i] += gate[i] * a.branchFactor * added[i];
    }
  }
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const int at = lane + step * WARP;
    if (at >= a.packs) continue;
    if (a.sum) a.sum[base + at] = pack(values[step]);
#pragma unroll
    for (int i = 0; i < PACK; i++) total += values[step][i];
  }
  const float count = float(a.packs * PACK);
  const float mean = warpSum(total) / count;
  float squares = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    if (lane + step * WARP >= a.packs) continue;
#pragma unroll
    for (int i = 0; i < PACK; i++) {
      values[step][i] -= mean;
      squares += values[step][i] * values[step][i];
    }
  }
  const float reciprocal = rsqrtf(warpSum(squares) / count + a.epsilon);

#pragma unroll
  for (int m = 0; m < MODULATIONS; m++) {
    const Modulation modulation = a.modulations[m];
    float largest = 0;
    float normed[STEPS][PACK];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const int at = lane + step * WARP;
      if (at >= a.packs) continue;
      float shift[PACK], scale[PACK];
      loadFloats(modulation.shift + sample + at * PACK, shift);
      loadFloats(modulation.scale + sample + at * PACK, scale);
#pragma unroll
      for (int i = 0; i < PACK; i++) {
        normed[step][i] = values[step][i] * reciprocal * scale[i] + shift[i];
        largest = larger(fabsf(normed[step][i]), largest);
      }
    }
    const float rowScale = scaleOf(warpMax(largest));
    if (lane == 0) modulation.scales[row] = rowScale;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const int at = lane + step * WARP;
      if (at < a.packs) modulation.codes[base + at] = encode(normed[step], 1.f / rowScale);
    }
  }
}

template <int STEPS>
void launch(const Arguments& a, int steps, int modulations, cudaStream_t stream) {
  if (steps == STEPS) {
    const int blocks = (a.rows + ROWS - 1) / ROWS;
    if (modulations == 1) modulateQuantise<STEPS, 1><<<blocks, ROWS * WARP, 0, stream>>>(a);
    else modulateQuantise<STEPS, 2><<<blocks, ROWS * WARP, 0, stream>>>(a);
  } else if constexpr (STEPS > 1) {
    launch<STEPS - 1>(a, steps, modulations, stream);
  }
}

/** SD3.5's widest stream has 2432 values. */
constexpr int MOST_STEPS = 10;

}  // namespace

/** stream [B, S, D] with 1 or 2 branches [B, S, D], modulation [B, M] → stream', then codes [B, S, D] and scales [B, S] for each modulation. */
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
  const int steps = int((width / PACK + WARP - 1) / WARP);
  require(width % PACK == 0 && steps <= MOST_STEPS, "the width must be a multiple of 8 and at most 2560");

  Arguments a = {};
  a.stream = stream.as<uint4>();
  a.branchCount = int(gates.size());
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
  if (a.rows > 0) launch<MOST_STEPS>(a, steps, int(shifts.size()), context.stream());
}

}  // namespace octet
