// Rows of float16 → FP8 with one scale per row. `GeluQuantize` first applies GELU (tanh); `QuantizeParts` splits a joint sequence in two.
#include "operators.h"
#include "rows.cuh"

namespace octet {
namespace {

__device__ inline float gelu(float x) {
  constexpr float SQRT_2_OVER_PI = 0.7978845608f;
  float tangent;
  asm("tanh.approx.f32 %0, %1;" : "=f"(tangent) : "f"(x * (SQRT_2_OVER_PI + SQRT_2_OVER_PI * 0.044715f * x * x)));
  const float half = 0.5f * x;
  return half * tangent + half;
}

/** The largest of the magnitudes of a block's threads; every thread receives it. */
template <int THREADS>
__device__ inline float blockMax(float value) {
  constexpr int WARPS = THREADS / WARP;
  __shared__ float partial[WARPS];
  value = warpMax(value);
  if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
  __syncthreads();
  float largest = partial[0];
#pragma unroll
  for (int i = 1; i < WARPS; i++) largest = larger(partial[i], largest);
  return largest;
}

struct Part {
  const uint4* from;
  uint2* codes;
  float* scales;
  int length;  // rows per sample
};
/** Rows of 8 · packs values from two parts. */
struct Parts {
  Part first, second;
  int stride;  // rows from one sample of an input to the next
  int packs;
  float factor;  // of the input
};

template <int THREADS, int STEPS, bool GELU>
__global__ void __launch_bounds__(THREADS) quantizeRows(const Parts p) {
  const int length = p.first.length + p.second.length;
  const int sample = blockIdx.x / length, token = blockIdx.x % length;
  const bool isFirst = token < p.first.length;
  const Part part = isFirst ? p.first : p.second;
  const int inPart = isFirst ? token : token - p.first.length;
  const int64_t row = int64_t(sample) * part.length + inPart;
  const uint4* from = part.from + (int64_t(sample) * p.stride + inPart) * p.packs;

  float values[STEPS][PACK];
  float largest = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const int at = threadIdx.x + step * THREADS;
    if (at < p.packs) unpack(from[at], values[step]);
  }
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    if (int(threadIdx.x) + step * THREADS >= p.packs) continue;
#pragma unroll
    for (int i = 0; i < PACK; i++) {
      const float x = values[step][i] * p.factor;
      values[step][i] = GELU ? gelu(x) : x;
      largest = larger(fabsf(values[step][i]), largest);
    }
  }
  const float scale = scaleOf(blockMax<THREADS>(largest));
  if (threadIdx.x == 0) part.scales[row] = scale;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    const int at = threadIdx.x + step * THREADS;
    if (at < p.packs) part.codes[row * p.packs + at] = encode(values[step], 1.f / scale);
  }
}

template <int THREADS, bool GELU, int STEPS>
void launchSteps(const Parts& p, int64_t rows, int steps, cudaStream_t stream) {
  if (steps == STEPS) {
    quantizeRows<THREADS, STEPS, GELU><<<unsigned(rows), THREADS, 0, stream>>>(p);
  } else if constexpr (STEPS > 1) {
    launchSteps<THREADS, GELU, STEPS - 1>(p, rows, steps, stream);
  }
}

int stepsOf(const Parts& p, int threads) { return (p.packs + threads - 1) / threads; }

template <bool GELU>
void launch(const Parts& p, int64_t rows, cudaStream_t stream) {
  constexpr int FEW = 160, MANY = 256;  // threads; 160 leave few idle for rows of Large
  constexpr int MAX_STEPS = 6;          // 12288 values
  const int few = stepsOf(p, FEW), many = stepsOf(p, MANY);
  require(many >= 1 && many <= MAX_STEPS, "rows of 8 to 12288 values are allowed");
  if (rows == 0) return;
  if (!GELU && few <= 2 && few * FEW < many * MANY) return launchSteps<FEW, GELU, 2>(p, rows, few, stream);
  launchSteps<MANY, GELU, MAX_STEPS>(p, rows, many, stream);
}

std::vector<int64_t> withoutLast(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end() - 1}; }

}  // namespace

GeluQuantize::GeluQuantize(const Attributes& attributes) : factor(attributes.number("factor", 1)) {}

/** x [B, S, N], optionally y [B, T, N] → codes [B, S, N] and scales [B, S] of gelu(factor · x); the same for y. */
void GeluQuantize::compute(const Context& context) const {
  const Tensor x = context.input(0), y = context.input(1);
  require(x.width() % PACK == 0, "the width must be a multiple of 8");
  require(!y || y.width() == x.width(), "the tensors have different widths");
  const auto part = [&](const Tensor& input, size_t output) {
    const Tensor codes = context.output(output, input.shape), scales = context.output(output + 1, withoutLast(input.shape));
    return Part{input.as<uint4>(), codes.as<uint2>(), scales.as<float>(), int(input.rows())};
  };
  const Part first = part(x, 0), second = y ? part(y, 2) : Part{};
  launch<true>({first, second, 0, int(x.width() / PACK), factor}, int64_t(first.length) + second.length, context.stream());
}

/** joint [B, S + T, D], like [B, S, …] → codes and scales of the first S rows, then of the T others. */
void QuantizeParts::compute(const Context& context) const {
  const Tensor joint = context.input(0), like = context.input(1);
  require(joint.shape.size() == 3 && joint.width() % PACK == 0, "takes [B, S, D] with D a multiple of 8");
  const int64_t batch = joint.shape[0], first = like.shape[1], second = joint.shape[1] - first;
  require(second >= 0, "the second input is longer than the first");
  const int packs = int(joint.width() / PACK);
  const auto part = [&](size_t output, int64_t from, int64_t length) {
    return Part{joint.as<uint4>() + from * packs, context.output(output, {batch, length, joint.width()}).as<uint2>(),
                context.output(output + 1, {batch, length}).as<float>(), int(length)};
  };
  const Parts p = {part(0, 0, first), part(2, first, second), int(joint.shape[1]), packs, 1.f};
  launch<false>(p, joint.rows(), context.stream());
}

}  // namespace octet
