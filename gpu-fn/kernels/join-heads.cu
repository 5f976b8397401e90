// The image's and the text's projections become one sequence of heads: queries and keys RMS-normalised and in FP8, values in float16.
// A normalised vector of 64 has no element beyond 8 · weight, so one scale, known beforehand, serves all tokens.
#include "operators.h"
#include "rows.cuh"
#include "tiles.cuh"

namespace octet {
namespace {

constexpr int LANES = DEPTH / PACK;           // threads of a token and head
constexpr int TOKENS = 32;                    // of a block
constexpr int THREADS = TOKENS * LANES;
constexpr float MOST_NORMALISED = 8;          // √64

/** One stream's projections [B, S, parts · D]: q, k and v, or k and v only. */
struct Stream {
  const uint4* projections;
  const float *queryNorm, *keyNorm;
  int tokens, parts;
};
struct Arguments {
  Stream image, text;
  uint8_t *queries, *keys, *values;
  float* logitFactor;
  int heads, queryTokens, paddedQueries, tiles;
  float epsilon;
};

/** The largest |weight| of a norm in all threads of a group of LANES; 0 for one that is absent. */
__device__ inline float largestWeight(const float* norm, const float (&weights)[PACK]) {
  float largest = 0;
  if (norm) {
#pragma unroll
    for (int i = 0; i < PACK; i++) largest = fmaxf(largest, fabsf(weights[i]));
  }
#pragma unroll
  for (int mask = LANES / 2; mask; mask /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, mask));
  return largest;
}

/** The factor that takes a normalised vector to codes. Both streams share it. */
__device__ inline float codeFactor(const float* image, const float* text, int lane) {
  float a[PACK] = {}, b[PACK] = {};
  if (image) loadFloats(image + lane * PACK, a);
  if (text) loadFloats(text + lane * PACK, b);
  const float largest = fmaxf(largestWeight(image, a), largestWeight(text, b));
  return largest > 0 ? FP8_MAX / (MOST_NORMALISED * largest) : 1.f;
}

__device__ inline uint2 normalise(uint4 bits, const float* norm, int lane, float epsilon, float factor) {
  float values[PACK], weights[PACK];
  unpack(bits, values);
  loadFloats(norm + lane * PACK, weights);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < PACK; i++) squares += values[i] * values[i];
#pragma unroll
  for (int mask = LANES / 2; mask; mask /= 2) squares += __shfl_xor_sync(~0u, squares, mask);
  const float reciprocal = rsqrtf(squares / DEPTH + epsilon);
#pragma unroll
  for (int i = 0; i < PACK; i++) values[i] *= reciprocal * weights[i];
  return encode(values, factor);
}

__global__ void __launch_bounds__(THREADS) joinHeads(const Arguments a) {
  const int head = blockIdx.x, sample = blockIdx.z;
  const int lane = threadIdx.x % LANES;
  const int token = blockIdx.y * TOKENS + threadIdx.x / LANES;  // of the joint sequence, padding included
  const float queryFactor = codeFactor(a.image.queryNorm, a.text.queryNorm, lane);
  const float keyFactor = codeFactor(a.image.keyNorm, a.text.keyNorm, lane);
  if (head == 0 && sample == 0 && blockIdx.y == 0 && threadIdx.x == 0) *a.logitFactor = 1.f / (queryFactor * keyFactor);

  const bool isText = token >= a.image.tokens;
  const Stream stream = isText ? a.text : a.image;
  const int row = isText ? token - a.image.tokens : token;
  // The threads of a token take the same side, and padding follows the last token; shuffles name all 32 lanes, so nobody leaves early.
  const bool exists = row < stream.tokens;
  const int packs = a.heads * LANES;
  const uint4* from = stream.projections + (int64_t(sample) * stream.tokens + (exists ? row : 0)) * stream.parts * packs +
                      head * LANES + lane;
  const uint4 zero = {};
  const bool hasQuery = exists && stream.parts == 3;
  const uint4 q = hasQuery ? from[0] : zero;
  const uint4 k = exists ? from[(stream.parts - 2) * packs] : zero;
  const uint4 value = exists ? from[(stream.parts - 1) * packs] : zero;
  const float* queryNorm = stream.queryNorm ? stream.queryNorm : a.image.queryNorm;
  const float* keyNorm = stream.keyNorm ? stream.keyNorm : a.image.keyNorm;
  const uint2 query = normalise(q, queryNorm, lane, a.epsilon, queryFactor);
  const uint2 key = normalise(k, keyNorm, lane, a.epsilon, keyFactor);

  const int64_t group = int64_t(sample) * a.heads + head;
  const int tile = token / TILE, at = token % TILE;
  const int code = keyChunk(at, lane / 2) + lane % 2 * PACK;
  if (token < a.paddedQueries)
    *reinterpret_cast<uint2*>(a.queries + (group * a.paddedQueries + tile * TILE) * DEPTH + code) =
        token < a.queryTokens ? query : make_uint2(0, 0);
  *reinterpret_cast<uint2*>(a.keys + (group * a.tiles + tile) * KEY_BYTES + code) = key;
  *reinterpret_cast<uint4*>(a.values + (group * a.tiles + tile) * VALUE_BYTES + valueChunk(at, lane)) = value;
}

Stream streamOf(const Tensor& projections, const Tensor& queryNorm, const Tensor& keyNorm, int64_t width) {
  if (!projections) return {};
  const int64_t parts = projections.width() / width;
  require(projections.shape.size() == 3 && parts * width == projections.width() && (parts == 2 || parts == 3) && keyNorm,
          "takes projections [B, S, 3D] or, of the text, [B, T, 2D], and the norms that they need");
  return {projections.as<uint4>(), queryNorm.as<float>(), keyNorm.as<float>(), int(projections.shape[1]), int(parts)};
}

}  // namespace

JoinHeads::JoinHeads(const Attributes& attributes) : epsilon(attributes.number("epsilon", 1e-6f)) {}

/** image [B, S, 3D], text [B, T, 3D or 2D] → queries [B, H, padded, 64], tiles of keys [B, H, tiles, 8192] and of values [.., 16384]. */
void JoinHeads::compute(const Context& context) const {
  const Tensor image = context.input(0), text = context.input(1);
  const int64_t batch = image.shape[0], width = image.width() / 3, heads = width / DEPTH;
  require(image.width() % (3 * DEPTH) == 0 && context.input(2), "takes heads of 64 and a norm of the queries");
  require(!text || text.shape[0] == batch, "image and text have different batches");

  Arguments a = {};
  a.image = streamOf(image, context.input(2), context.input(3), width);
  a.text = streamOf(text, context.input(4), context.input(5), width);
  const int64_t tokens = a.image.tokens + a.text.tokens;
  a.heads = int(heads);
  a.queryTokens = a.text.parts == 3 ? int(tokens) : a.image.tokens;
  a.tiles = int(tilesOf(tokens));
  a.paddedQueries = int(tilesOf(a.queryTokens)) * TILE;
  a.epsilon = epsilon;
  a.queries = context.output(0, {batch, heads, a.paddedQueries, DEPTH}).as<uint8_t>();
  a.keys = context.output(1, {batch, heads, a.tiles, KEY_BYTES}).as<uint8_t>();
  a.values = context.output(2, {batch, heads, a.tiles, VALUE_BYTES}).as<uint8_t>();
  a.logitFactor = context.output(3, {1}).as<float>();
  if (batch * tokens == 0) return;
  // Heads vary fastest, so that blocks that run together read neighbouring memory.
  const dim3 grid{unsigned(heads), unsigned(a.tiles * TILE / TOKENS), unsigned(batch)};
  joinHeads<<<grid, THREADS, 0, context.stream()>>>(a);
}

}  // namespace octet
