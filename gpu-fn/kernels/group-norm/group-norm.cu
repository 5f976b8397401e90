// Group normalization of feature maps [B, H, W, C] with optional SiLU, after adding the deferred bias and skip. Sums have the same order on
// every GPU, so that equal maps have equal norms to the last bit.
#include <algorithm>

#include "operators.h"
#include "rows.cuh"

namespace octet {
namespace {

constexpr int THREADS = 256;
constexpr int MAX_GROUP = 256;  // channels per group
/** Maximum number of parts of a map that are summed in parallel: two rounds on the largest GPUs, with four blocks per multiprocessor. */
constexpr int MAX_PARTS = 1024;

/** map + bias + skip; the last two may be absent. A thread reads eight channels of a pixel. */
struct DeferredSum {
  const uint4* map;
  const float* bias;
  const uint4* skip;
  int pixels, packs;  // pixels per sample; channels / 8

  /** Pixels that a block processes in parallel. */
  __host__ __device__ int lanes() const { return THREADS / packs; }
};

/** Per sample: [parts, 2, C], the sums of value − first value and of its square over each part's pixels; then [2, C], scale and offset. */
struct Statistics {
  float* values;
  int parts;

  __host__ __device__ float* at(int sample, int part, int channels) const {
    return values + (int64_t(sample) * (parts + 1) + part) * 2 * channels;
  }
};

struct Norm {
  const float *weight, *bias;
  int groups;
  float epsilon;
};

__device__ inline void load(const DeferredSum& p, int64_t at, const float (&bias)[PACK], float (&values)[PACK]) {
  unpack(p.map[at], values);
  float skipped[PACK] = {};
  if (p.skip) unpack(p.skip[at], skipped);
#pragma unroll
  for (int i = 0; i < PACK; i++) values[i] += bias[i] + skipped[i];
}

__device__ inline void loadBias(const DeferredSum& p, int pack, float (&bias)[PACK]) {
  if (p.bias) return loadFloats(p.bias + pack * PACK, bias);
#pragma unroll
  for (int i = 0; i < PACK; i++) bias[i] = 0;
}

/** One block per part and sample. Writes map + bias + skip to `sum` unless it is null. */
__global__ void __launch_bounds__(THREADS) sumChannels(const DeferredSum p, const Statistics statistics, uint4* sum) {
  __shared__ float partial[2][THREADS * PACK];
  const int pack = threadIdx.x % p.packs, lane = threadIdx.x / p.packs, lanes = p.lanes();
  const int64_t base = int64_t(blockIdx.y) * p.pixels * p.packs;
  float bias[PACK], first[PACK], sums[PACK] = {}, squares[PACK] = {};
  loadBias(p, pack, bias);
  load(p, base + pack, bias, first);
  if (lane < lanes) {
#pragma unroll 4
    for (int pixel = blockIdx.x * lanes + lane; pixel < p.pixels; pixel += statistics.parts * lanes) {
      const int64_t at = base + int64_t(pixel) * p.packs + pack;
      float values[PACK];
      load(p, at, bias, values);
      if (sum) sum[at] = octet::pack(values);
#pragma unroll
      for (int i = 0; i < PACK; i++) {
        const float difference = values[i] - first[i];
        sums[i] += difference;
        squares[i] += difference * difference;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < PACK; i++) {
    partial[0][threadIdx.x * PACK + i] = sums[i];
    partial[1][threadIdx.x * PACK + i] = squares[i];
  }
  __syncthreads();
  const int channels = p.packs * PACK;
  float* out = statistics.at(blockIdx.y, blockIdx.x, channels);
  for (int i = threadIdx.x; i < 2 * channels; i += THREADS) {
    const float* from = partial[i / channels] + i % channels;
    float total = 0;
    for (int each = 0; each < lanes; each++) total += from[each * channels];
    out[i] = total;
  }
}

__device__ inline double warpSum(double value) {
#pragma unroll
  for (int mask = WARP / 2; mask; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}

/** One block per group and sample: computes the scale and the offset of its channels. */
__global__ void __launch_bounds__(THREADS) combine(const DeferredSum p, const Statistics statistics, const Norm norm) {
  __shared__ double means[MAX_GROUP], squares[MAX_GROUP];
  const int channels = p.packs * PACK, size = channels / norm.groups, begin = blockIdx.x * size;
  for (int i = threadIdx.x / WARP; i < size; i += THREADS / WARP) {
    const int channel = begin + i;
    double sum = 0, square = 0;
    for (int part = threadIdx.x % WARP; part < statistics.parts; part += WARP) {
      const float* from = statistics.at(blockIdx.y, part, channels) + channel;
      sum += from[0];
      square += from[channels];
    }
    sum = warpSum(sum), square = warpSum(square);
    float bias[PACK], first[PACK];
    loadBias(p, channel / PACK, bias);
    load(p, int64_t(blockIdx.y) * p.pixels * p.packs + channel / PACK, bias, first);
    if (threadIdx.x % WARP == 0) {
      means[i] = sum / p.pixels;
      squares[i] = square - sum * means[i];
#pragma unroll
      for (int k = 0; k < PACK; k++)
        if (k == channel % PACK) means[i] += first[k];
    }
  }
  __syncthreads();
  double mean = 0, variance = 0;
  for (int i = 0; i < size; i++) mean += means[i] / size;
  for (int i = 0; i < size; i++) variance += (squares[i] / p.pixels + (means[i] - mean) * (means[i] - mean)) / size;
  const double factor = rsqrt(variance + norm.epsilon);
  float* out = statistics.at(blockIdx.y, statistics.parts, channels) + begin;
  for (int i = threadIdx.x; i < size; i += THREADS) {
    const double scale = norm.weight[begin + i] * factor;
    out[i] = float(scale);
    out[channels + i] = float(norm.bias[begin + i] - mean * scale);
  }
}

__device__ inline float silu(float x) { return __fdividef(x, 1.f + __expf(-x)); }

template <bool SILU>
__global__ void __launch_bounds__(THREADS) apply(const DeferredSum p, const Statistics statistics, uint4* normed) {
  const int pack = threadIdx.x % p.packs, lane = threadIdx.x / p.packs, lanes = p.lanes();
  if (lane >= lanes) return;
  const int64_t base = int64_t(blockIdx.y) * p.pixels * p.packs;
  const float* affine = statistics.at(blockIdx.y, statistics.parts, p.packs * PACK) + pack * PACK;
  float bias[PACK], scale[PACK], offset[PACK];
  loadBias(p, pack, bias);
  loadFloats(affine, scale);
  loadFloats(affine + p.packs * PACK, offset);
#pragma unroll 4
  for (int pixel = blockIdx.x * lanes + lane; pixel < p.pixels; pixel += gridDim.x * lanes) {
    const int64_t at = base + int64_t(pixel) * p.packs + pack;
    float values[PACK];
    load(p, at, bias, values);
#pragma unroll
    for (int i = 0; i < PACK; i++) {
      const float x = values[i] * scale[i] + offset[i];
      values[i] = SILU ? silu(x) : x;
    }
    normed[at] = octet::pack(values);
  }
}

}  // namespace

GroupNorm::GroupNorm(const Attributes& attributes)
    : groups(attributes.integer("groups", 1)), silu(attributes.integer("silu", 0) != 0), epsilon(attributes.number("epsilon", 1e-6f)) {}

/** map [B, H, W, C], weight and bias [C], deferred bias [C] and skip [B, H, W, C] → norm, scratch, and optionally the sum. */
void GroupNorm::compute(const Context& context) const {
  const Tensor map = context.input(0), deferredBias = context.input(3), skip = context.input(4);
  const int64_t channels = map.width();
  require(map.shape.size() == 4 && channels % PACK == 0 && channels / PACK <= THREADS, "takes [B, H, W, C] with C a multiple of 8 up to 2048");
  require(channels % groups == 0 && channels / groups <= MAX_GROUP, "the number of channels must be a multiple of the number of groups, with at most 256 channels per group");
  const Tensor normed = context.output(0, map.shape);
  const int batch = int(map.shape[0]), pixels = int(map.shape[1] * map.shape[2]);
  DeferredSum deferred = {map.as<uint4>(), deferredBias.as<float>(), skip.as<uint4>(), pixels, int(channels / PACK)};
  const int lanes = deferred.lanes();
  const int parts = std::clamp((pixels + lanes - 1) / lanes, 1, MAX_PARTS);
  const Tensor scratch = context.output(1, {batch, parts + 1, 2, channels}), sum = context.output(2, map.shape);
  if (batch == 0 || pixels == 0) return;

  const cudaStream_t stream = context.stream();
  const Statistics statistics = {scratch.as<float>(), parts};
  const Norm norm = {context.input(1).as<float>(), context.input(2).as<float>(), int(groups), epsilon};
  const dim3 grid(parts, batch);
  sumChannels<<<grid, THREADS, 0, stream>>>(deferred, statistics, sum.as<uint4>());
  combine<<<dim3(unsigned(groups), batch), THREADS, 0, stream>>>(deferred, statistics, norm);
  if (sum) deferred.map = sum.as<uint4>(), deferred.bias = nullptr, deferred.skip = nullptr;
  (silu ? apply<true> : apply<false>)<<<grid, THREADS, 0, stream>>>(deferred, statistics, normed.as<uint4>());
}

}  // namespace octet
