// sum = stream + Σ gate · branch, then for one or two modulations LayerNorm(sum) · scale + shift, quantized by rows: the work between two
// matrix products of a transformer block, in one pass. A CUDA block processes rows of one sample of one stream. A thread has eight of their
// columns, keeps the columns' modulation in registers, and loads the next row while it reduces the current one.
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
struct Stream {
  const uint4* value;
  uint4* sum;  // null without branches
  Branch branches[MAX_BRANCHES];
  Modulation modulations[MAX_MODULATIONS];
  int64_t modulationWidth;
  int rowsPerSample;
  int blocks;  // CUDA blocks per sample for this stream
};
struct Arguments {
  Stream first, second;
  int packs;
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
__device__ inline void load(Loaded<BRANCHES>& loaded, const Stream& s, int64_t here) {
  loaded.stream = s.value[here];
#pragma unroll
  for (int b = 0; b < BRANCHES; b++) loaded.branches[b] = s.branches[b].value[here];
}

template <int BRANCHES, int MODULATIONS>
__global__ void __launch_bounds__(MAX_WARPS* WARP) modulateQuantize(const __grid_constant__ Arguments a) {
  __shared__ Partial partial[2 + MODULATIONS];
  const bool isFirst = int(blockIdx.x) < a.first.blocks;
  const Stream& s = isFirst ? a.first : a.second;
  const int start = isFirst ? blockIdx.x : blockIdx.x - a.first.blocks;
  const int sample = blockIdx.y, at = threadIdx.x;
  const bool exists = at < a.packs;  // idle lanes of the last warp take part in the reductions
  const int64_t first = int64_t(sample) * s.rowsPerSample;
  const int64_t vector = sample * s.modulationWidth + at * PACK;

  Loaded<BRANCHES> loaded = {};
  float gate[BRANCHES + 1][PACK] = {}, shift[MODULATIONS][PACK] = {}, scale[MODULATIONS][PACK] = {};
  if (exists) {
    load(loaded, s, (first + start) * a.packs + at);
#pragma unroll
    for (int b = 0; b < BRANCHES; b++) {
      loadFloats(s.branches[b].gate + vector, gate[b]);
#pragma unroll
      for (int i = 0; i < PACK; i++) gate[b][i] *= a.branchFactor;
    }
#pragma unroll
    for (int m = 0; m < MODULATIONS; m++) {
      loadFloats(s.modulations[m].shift + vector, shift[m]);
      loadFloats(s.modulations[m].scale + vector, scale[m]);
    }
  }
  if (at < (2 + MODULATIONS) * MAX_WARPS / 4) reinterpret_cast<float4*>(partial)[at] = make_float4(0, 0, 0, 0);
  __syncthreads();

  const float count = float(a.packs * PACK);
  for (int token = start; token < s.rowsPerSample; token += s.blocks) {
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
    if (exists && token + s.blocks < s.rowsPerSample) load(loaded, s, here + int64_t(s.blocks) * a.packs);
    if (exists && s.sum) s.sum[here] = pack(values);

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
      if (at == 0) s.modulations[m].scales[row] = rowScale;
      if (exists) s.modulations[m].codes[here] = encode(normed, 1.f / rowScale);
    }
  }
}

/** Divides the concurrent CUDA blocks between the streams in proportion to their row counts. */
void divide(Arguments& a, int blocks) {
  const int64_t rows = a.first.rowsPerSample + a.second.rowsPerSample;
  const auto share = [&](const Stream& s) {
    const int part = int((blocks * int64_t(s.rowsPerSample) + rows / 2) / rows);
    return std::min(s.rowsPerSample, std::max(1, part));
  };
  a.first.blocks = share(a.first);
  a.second.blocks = share(a.second);
}

template <int BRANCHES, int MODULATIONS>
void launch(Arguments a, int batch, int threads, cudaStream_t stream) {
  int device = 0, processors = 0, blocks = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, modulateQuantize<BRANCHES, MODULATIONS>, threads, 0));
  divide(a, processors * blocks / batch);
  const dim3 grid(a.first.blocks + a.second.blocks, batch);
  modulateQuantize<BRANCHES, MODULATIONS><<<grid, threads, 0, stream>>>(a);
}

template <int MODULATIONS>
void launch(const Arguments& a, size_t branches, int batch, int threads, cudaStream_t stream) {
  if (branches == 0) launch<0, MODULATIONS>(a, batch, threads, stream);
  else if (branches == 1) launch<1, MODULATIONS>(a, batch, threads, stream);
  else launch<2, MODULATIONS>(a, batch, threads, stream);
}

ModulateQuantize::Offsets offsetsOf(const Attributes& attributes, const std::string& prefix) {
  const auto list = [&](const char* name) { return attributes.integers((prefix + name).c_str()); };
  const ModulateQuantize::Offsets offsets = {list("shifts"), list("scales"), list("gates")};
  require(offsets.shifts.size() <= MAX_MODULATIONS && offsets.scales.size() == offsets.shifts.size() && offsets.gates.size() <= MAX_BRANCHES,
          "1 or 2 modulations and at most 2 gates are allowed");
  return offsets;
}

/** Reads a stream from the inputs and outputs starting at these indices. */
Stream streamOf(const Context& context, const ModulateQuantize::Offsets& offsets, size_t firstInput, size_t firstOutput) {
  const Tensor value = context.input(firstInput), modulation = context.input(firstInput + 1);
  require(value.shape.size() == 3 && modulation.shape.size() == 2 && modulation.shape[0] == value.shape[0],
          "takes a stream [B, S, D] and a modulation [B, M]");
  const int64_t width = value.width();
  const auto vector = [&](int64_t offset) {
    require(offset >= 0 && offset % PACK == 0 && offset + width <= modulation.width(), "an offset is outside the modulation");
    return modulation.as<float>() + offset;
  };
  Stream s = {};
  s.value = value.as<uint4>();
  s.modulationWidth = modulation.width();
  s.rowsPerSample = int(value.shape[1]);
  for (size_t i = 0; i < offsets.gates.size(); i++) {
    const Tensor branch = context.input(firstInput + 2 + i);
    require(branch && branch.shape == value.shape, "a gate has no branch of the stream's shape");
    s.branches[i] = {branch.as<uint4>(), vector(offsets.gates[i])};
  }
  s.sum = context.output(firstOutput, value.shape).as<uint4>();
  for (size_t i = 0; i < offsets.shifts.size(); i++) {
    const Tensor codes = context.output(firstOutput + 1 + 2 * i, value.shape);
    const Tensor rowScales = context.output(firstOutput + 2 + 2 * i, {value.shape[0], value.shape[1]});
    s.modulations[i] = {vector(offsets.shifts[i]), vector(offsets.scales[i]), codes.as<uint2>(), rowScales.as<float>()};
  }
  return s;
}

}  // namespace

/**
 * stream [B, S, D], at most 2 branches [B, S, D], modulation [B, M] → sum, then codes [B, S, D] and scales [B, S] per modulation. A second
 * stream [B, T, D] has the same number of branches and modulations.
 */
ModulateQuantize::ModulateQuantize(const Attributes& attributes)
    : first(offsetsOf(attributes, "")),
      second(offsetsOf(attributes, "second_")),
      branchFactor(attributes.number("branch_factor", 1)),
      epsilon(attributes.number("epsilon", 1e-6f)) {
  require(!first.shifts.empty(), "a modulation is missing");
  require(second.shifts.empty() || (second.shifts.size() == first.shifts.size() && second.gates.size() == first.gates.size()),
          "the streams have different numbers of modulations or branches");
}

void ModulateQuantize::compute(const Context& context) const {
  constexpr size_t SECOND_INPUT = 2 + MAX_BRANCHES, SECOND_OUTPUT = 1 + 2 * MAX_MODULATIONS;
  const Tensor value = context.input(0);
  const int64_t batch = value.shape[0], width = value.width();
  const int64_t warps = (width / PACK + WARP - 1) / WARP;
  require(width % PACK == 0 && warps >= 1 && warps <= MAX_WARPS, "the width must be a multiple of 8 and at most 4096");

  Arguments a = {};
  a.first = streamOf(context, first, 0, 0);
  if (!second.shifts.empty()) {
    const Tensor other = context.input(SECOND_INPUT);
    require(other && other.shape[0] == batch && other.width() == width, "the streams have different batches or widths");
    a.second = streamOf(context, second, SECOND_INPUT, SECOND_OUTPUT);
  }
  a.packs = int(width / PACK);
  a.branchFactor = branchFactor;
  a.epsilon = epsilon;
  if (batch * (a.first.rowsPerSample + a.second.rowsPerSample) == 0) return;
  const int threads = int(warps * WARP);
  if (first.shifts.size() == 1) launch<1>(a, first.gates.size(), int(batch), threads, context.stream());
  else launch<2>(a, first.gates.size(), int(batch), threads, context.stream());
}

}  // namespace octet
