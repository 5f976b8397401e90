// sum = stream + Σ gate · branch, then for one or two modulations LayerNorm(sum) · scale + shift, quantized by rows: the work between two
// matrix products of a transformer block, in one pass. A CUDA block processes rows of one sample. A thread has eight of their columns, keeps
// the columns' modulation in registers, and loads the next row while it reduces the current one.
#include <algorithm>

#include "operators.h"
#include "rows.cuh"

namespace octet {
namespace {

constexpr int MAX_BRANCHES = 2, MAX_MODULATIONS = 2;
constexpr int MAX_WARPS = 16;  // per row: 4096 values

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
  uint4* sum;  // null without branches
  Branch branches[MAX_BRANCHES];
  Modulation modulations[MAX_MODULATIONS];
  int rowsPerSample, packs;
  int64_t modulationWidth;
  float branchFactor, epsilon;
};

/** A value per warp. Values of absent warps are zero, which changes neither a sum nor a largest magnitude. */
using Partial = float4[MAX_WARPS / 4];

__device__ inline float add(float a, float b) { return a + b; }

/** Reduces the values of a block's threads; every thread receives the result. */
template <class Combine>
__device__ inline float combine(float value, Partial& partial, Combine of) {
#pragma unroll
  for (int mask = WARP / 2; mask; mask /= 2) value = of(value, __shfl_xor_sync(~0u, value, mask));
  if (threadIdx.x % WARP == 0) reinterpret_cast<float*>(partial)[threadIdx.x / WARP] = value;
  __syncthreads();
  const float4 a = partial[0], b = partial[1], c = partial[2], d = partial[3];
  return of(of(of(of(a.x, a.y), of(a.z, a.w)), of(of(b.x, b.y), of(b.z, b.w))),
            of(of(of(c.x, c.y), of(c.z, c.w)), of(of(d.x, d.y), of(d.z, d.w))));
}

/** A thread's part of a row, in float16. */
template <int BRANCHES>
struct Loaded {
  uint4 stream, branches[BRANCHES + 1];
};

template <int BRANCHES>
__device__ inline void load(Loaded<BRANCHES>& loaded, const Arguments& a, int64_t here) {
  loaded.stream = a.stream[here];
#pragma unroll
  for (int b = 0; b < BRANCHES; b++) loaded.branches[b] = a.branches[b].value[here];
}

template <int BRANCHES, int MODULATIONS>
__global__ void __launch_bounds__(MAX_WARPS* WARP) modulateQuantize(const Arguments a) {
  __shared__ Partial partial[2 + MODULATIONS];
  const int sample = blockIdx.y, at = threadIdx.x;
  const bool exists = at < a.packs;  // idle lanes of the last warp take part in the reductions
  const int64_t first = int64_t(sample) * a.rowsPerSample;
  const int64_t vector = sample * a.modulationWidth + at * PACK;

  Loaded<BRANCHES> loaded = {};
  float gate[BRANCHES + 1][PACK] = {}, shift[MODULATIONS][PACK] = {}, scale[MODULATIONS][PACK] = {};
  if (exists) {
    load(loaded, a, (first + blockIdx.x) * a.packs + at);
#pragma unroll
    for (int b = 0; b < BRANCHES; b++) {
      loadFloats(a.branches[b].gate + vector, gate[b]);
#pragma unroll
      for (int i = 0; i < PACK; i++) gate[b][i] *= a.branchFactor;
    }
#pragma unroll
    for (int m = 0; m < MODULATIONS; m++) {
      loadFloats(a.modulations[m].shift + vector, shift[m]);
      loadFloats(a.modulations[m].scale + vector, scale[m]);
    }
  }
  if (at < (2 + MODULATIONS) * MAX_WARPS / 4) reinterpret_cast<float4*>(partial)[at] = make_float4(0, 0, 0, 0);
  __syncthreads();

  const float count = float(a.packs * PACK);
  for (int token = blockIdx.x; token < a.rowsPerSample; token += gridDim.x) {
    const int64_t row = first + token, here = row * a.packs + at;
    float values[PACK];
    unpack(loaded.stream, values);
#pragma unroll
    for (int b = 0; b < BRANCHES; b++) {
      float added[PACK];
      unpack(loaded.branches[b], added);
#pragma unroll
      for (int i = 0; i < PACK; i++) values[i] += gate[b][i] * added[i];
    }
    if (exists && token + gridDim.x < a.rowsPerSample) load(loaded, a, here + int64_t(gridDim.x) * a.packs);
    if (exists && a.sum) a.sum[here] = pack(values);

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
    for (int m = 0; m < MODULATIONS; m++) {
      float largest = 0, normed[PACK];
#pragma unroll
      for (int i = 0; i < PACK; i++) {
        normed[i] = values[i] * reciprocal * scale[m][i] + shift[m][i];
        largest = larger(fabsf(normed[i]), largest);
      }
      const float rowScale = scaleOf(combine(exists ? largest : 0, partial[2 + m], larger));
      if (at == 0) a.modulations[m].scales[row] = rowScale;
      if (exists) a.modulations[m].codes[here] = encode(normed, 1.f / rowScale);
    }
  }
}

template <int BRANCHES, int MODULATIONS>
void launch(const Arguments& a, int batch, int threads, cudaStream_t stream) {
  int device = 0, processors = 0, blocks = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, modulateQuantize<BRANCHES, MODULATIONS>, threads, 0));
  const dim3 grid(std::min(a.rowsPerSample, std::max(1, processors * blocks / batch)), batch);
  modulateQuantize<BRANCHES, MODULATIONS><<<grid, threads, 0, stream>>>(a);
}

template <int MODULATIONS>
void launch(const Arguments& a, int branches, int batch, int threads, cudaStream_t stream) {
  if (branches == 0) launch<0, MODULATIONS>(a, batch, threads, stream);
  else if (branches == 1) launch<1, MODULATIONS>(a, batch, threads, stream);
  else launch<2, MODULATIONS>(a, batch, threads, stream);
}

}  // namespace

/** stream [B, S, D], at most 2 branches [B, S, D], modulation [B, M] → sum, then codes [B, S, D] and scales [B, S] per modulation. */
ModulateQuantize::ModulateQuantize(const Attributes& attributes)
    : shifts(attributes.integers("shifts")),
      scales(attributes.integers("scales")),
      gates(attributes.integers("gates")),
      branchFactor(attributes.number("branch_factor", 1)),
      epsilon(attributes.number("epsilon", 1e-6f)) {
  require(!shifts.empty() && shifts.size() <= MAX_MODULATIONS && scales.size() == shifts.size() && gates.size() <= MAX_BRANCHES,
          "1 or 2 modulations and at most 2 gates are allowed");
}

void ModulateQuantize::compute(const Context& context) const {
  const Tensor stream = context.input(0), modulation = context.input(1);
  require(stream.shape.size() == 3 && modulation.shape.size() == 2 && modulation.shape[0] == stream.shape[0],
          "takes a stream [B, S, D] and a modulation [B, M]");
  const int64_t width = stream.width();
  const int64_t warps = (width / PACK + WARP - 1) / WARP;
  require(width % PACK == 0 && warps >= 1 && warps <= MAX_WARPS, "the width must be a multiple of 8 and at most 4096");

  Arguments a = {};
  a.stream = stream.as<uint4>();
  a.rowsPerSample = int(stream.shape[1]);
  a.packs = int(width / PACK);
  a.modulationWidth = modulation.width();
  a.branchFactor = branchFactor;
  a.epsilon = epsilon;
  const auto vector = [&](int64_t offset) {
    require(offset >= 0 && offset % PACK == 0 && offset + width <= modulation.width(), "an offset is outside the modulation");
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
  if (stream.rows() == 0) return;
  const int branches = int(gates.size()), batch = int(stream.shape[0]), threads = int(warps * WARP);
  if (shifts.size() == 1) launch<1>(a, branches, batch, threads, context.stream());
  else launch<2>(a, branches, batch, threads, context.stream());
}

}  // namespace octet
