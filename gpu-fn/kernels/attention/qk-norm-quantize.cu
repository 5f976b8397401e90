// Concatenates image and text projections to one sequence per head, in FP8. Queries and keys are RMS-normalized: no element of a normalized
// vector of length 64 exceeds 8 · weight, so all tokens share one scale that is known in advance. Values have one scale per tile, a
// power of two.
#include "operators.h"
#include "rows.cuh"
#include "tiles.cuh"

namespace octet {
namespace {

constexpr int LANES = DEPTH / PACK;           // threads per token and head
constexpr int STEPS = 4;                      // tokens per thread; one tile per block
constexpr int THREADS = TILE / STEPS * LANES;
/**
 * The code of a normalized value equal to its weight. The largest product of a query and a key, each of √64 times this length, is 50,176,
 * which fits float16, in which Hopper's attention accumulates, even if all codes are rounded up.
 */
constexpr float LARGEST_CODE = 28;

/** One stream's projections [B, S, parts · D]: q, k and v, or k and v only. */
struct Stream {
  const uint4* projections;
  const float *queryNorm, *keyNorm;
  int tokens, parts;
};
struct Arguments {
  Stream image, text;
  uint8_t *queries, *keys, *values;
  float *valueScales, *logitFactor;
  int heads, queryTokens, paddedQueries, tiles;
  float epsilon;
};

/** The largest |weight| of a norm, in all threads of a group of LANES; 0 for an absent norm. */
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

/** The factor from normalized values to codes, which both streams share. */
__device__ inline float computeCodeFactor(const float* image, const float* text, int lane) {
  float a[PACK] = {}, b[PACK] = {};
  if (image) loadFloats(image + lane * PACK, a);
  if (text) loadFloats(text + lane * PACK, b);
  const float largest = fmaxf(largestWeight(image, a), largestWeight(text, b));
  return largest > 0 ? LARGEST_CODE / largest : 1.f;
}

__device__ inline uint2 normalize(uint4 bits, const float (&weights)[PACK], float epsilon, float factor) {
  float values[PACK];
  unpack(bits, values);
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

/** A thread's part of a token. */
struct Token {
  uint4 query, key, value;
  bool isText;
};

__device__ inline Token load(const Arguments& a, int token, int head, int sample, int lane) {
  Token t = {};
  t.isText = token >= a.image.tokens;
  const Stream stream = t.isText ? a.text : a.image;
  const int row = t.isText ? token - a.image.tokens : token;
  if (row >= stream.tokens) return t;  // padding follows the last token
  const int packs = a.heads * LANES;
  const uint4* from = stream.projections + (int64_t(sample) * stream.tokens + row) * stream.parts * packs + head * LANES + lane;
  if (stream.parts == 3) t.query = from[0];
  t.key = from[(stream.parts - 2) * packs];
  t.value = from[(stream.parts - 1) * packs];
  return t;
}

/** The weights of a stream's norms, or those of `fallback` if it has none. */
__device__ inline void loadNorms(const Stream& stream, const Stream& fallback, int lane, float (&query)[PACK], float (&key)[PACK]) {
  loadFloats((stream.queryNorm ? stream.queryNorm : fallback.queryNorm) + lane * PACK, query);
  loadFloats((stream.keyNorm ? stream.keyNorm : fallback.keyNorm) + lane * PACK, key);
}

constexpr uint32_t INFINITE = 0x7c00;  // as a float16

/** Largest magnitude in a warp, as float16 bits. NaN is ignored. */
__device__ inline uint32_t largestValue(const Token (&tokens)[STEPS]) {
  half2 largest = __float2half2_rn(0.f);
#pragma unroll
  for (const Token& t : tokens) {
    const half2* pairs = reinterpret_cast<const half2*>(&t.value);
#pragma unroll
    for (int i = 0; i < PACK / 2; i++) largest = __hmax2(largest, __habs2(pairs[i]));
  }
  const uint32_t bits = __half_as_ushort(__hmax(__low2half(largest), __high2half(largest)));
  return __reduce_max_sync(~0u, bits);
}

/** log2 of a scale that maps magnitudes up to `largest` below 256. The reciprocal of the scale is a normal float16. */
__device__ inline int scaleExponent(uint32_t largest) {
  constexpr int MOST = 30;  // biased exponent of the largest finite float16
  return min(max(int(largest >> 10), 7), MOST) - 22;
}

/** Value codes of a thread's tokens: four consecutive bytes in each of PACK channels. */
__device__ inline void encodeValues(const Token (&tokens)[STEPS], int exponent, uint32_t (&codes)[PACK]) {
  const half2 factor = __half2half2(__ushort_as_half(uint16_t(15 - exponent << 10)));  // 2^-exponent
#pragma unroll
  for (int i = 0; i < PACK / 2; i++) {
    half2 pairs[STEPS];
#pragma unroll
    for (int j = 0; j < STEPS; j++) pairs[j] = __hmul2(reinterpret_cast<const half2*>(&tokens[j].value)[i], factor);
    const uint32_t a = encode(pairs[0], pairs[1]), b = encode(pairs[2], pairs[3]);
    codes[2 * i] = __byte_perm(a, b, 0x6420);
    codes[2 * i + 1] = __byte_perm(a, b, 0x7531);
  }
}

/** Writes a tile of values, transposed through shared memory. Chunks are permuted (swizzled) to avoid bank conflicts in both accesses. */
__device__ inline void writeValues(const uint32_t (&codes)[PACK], int lane, int first, uint4* values) {
  constexpr int CHUNKS = TILE / CHUNK;
  __shared__ uint4 transposed[DEPTH][CHUNKS];
#pragma unroll
  for (int i = 0; i < PACK; i++)
    reinterpret_cast<uint32_t*>(&transposed[lane * PACK + i][first / STEPS ^ i ^ lane])[first % STEPS] = codes[i];
  __syncthreads();
#pragma unroll
  for (int at = threadIdx.x; at < DEPTH * CHUNKS; at += THREADS) {
    const int channel = at / CHUNKS, chunk = at % CHUNKS;
    values[valueChunk(channel, chunk) / CHUNK] = transposed[channel][chunk ^ channel % PACK ^ channel / PACK];
  }
}

__global__ void __launch_bounds__(THREADS, 3) qkNormQuantize(const Arguments a) {
  const int head = blockIdx.x, tile = blockIdx.y, sample = blockIdx.z;
  const int lane = threadIdx.x % LANES, first = threadIdx.x / LANES;
  // A thread processes the tokens of four consecutive value bytes.
  int at[STEPS];
  Token tokens[STEPS];
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    at[i] = first / STEPS * CHUNK + tokenAt(first % STEPS * STEPS + i);
    tokens[i] = load(a, tile * TILE + at[i], head, sample, lane);
  }

  const float queryFactor = computeCodeFactor(a.image.queryNorm, a.text.queryNorm, lane);
  const float keyFactor = computeCodeFactor(a.image.keyNorm, a.text.keyNorm, lane);
  if (head == 0 && sample == 0 && tile == 0 && threadIdx.x == 0) *a.logitFactor = 1.f / (queryFactor * keyFactor);
  float queryNorm[PACK], keyNorm[PACK];
  const bool beginsAsText = tokens[0].isText;
  loadNorms(beginsAsText ? a.text : a.image, a.image, lane, queryNorm, keyNorm);

  __shared__ uint32_t largest[THREADS / WARP];
  largest[threadIdx.x / WARP] = largestValue(tokens);

  const int64_t group = int64_t(sample) * a.heads + head;
  uint8_t* queries = a.queries + (group * a.paddedQueries + tile * TILE) * DEPTH;
  uint8_t* keys = a.keys + (group * a.tiles + tile) * KEY_BYTES;
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    const Token& t = tokens[i];
    if (i > 0 && t.isText && !tokens[i - 1].isText) loadNorms(a.text, a.image, lane, queryNorm, keyNorm);
    const uint2 query = normalize(t.query, queryNorm, a.epsilon, queryFactor);
    const uint2 key = normalize(t.key, keyNorm, a.epsilon, keyFactor);
    const int code = keyChunk(at[i], lane / 2) + lane % 2 * PACK;
    if (tile * TILE < a.paddedQueries)
      *reinterpret_cast<uint2*>(queries + code) = tile * TILE + at[i] < a.queryTokens ? query : make_uint2(0, 0);
    *reinterpret_cast<uint2*>(keys + code) = key;
  }

  __syncthreads();
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < THREADS / WARP; i++) most = max(most, largest[i]);
  const int exponent = scaleExponent(most);
  // Infinity has no code. A scale of NaN propagates to the head's result, so that it is not mistaken for an image.
  const bool isFinite = most < INFINITE;
  if (threadIdx.x == 0) a.valueScales[group * a.tiles + tile] = isFinite ? __int_as_float(127 + exponent << 23) : nanf("");
  uint32_t codes[PACK];
  encodeValues(tokens, exponent, codes);
  writeValues(codes, lane, first, reinterpret_cast<uint4*>(a.values + (group * a.tiles + tile) * VALUE_BYTES));
}

Stream streamOf(const Tensor& projections, const Tensor& queryNorm, const Tensor& keyNorm, int64_t width) {
  if (!projections) return {};
  const int64_t parts = projections.width() / width;
  require(projections.shape.size() == 3 && parts * width == projections.width() && (parts == 2 || parts == 3) && keyNorm,
          "takes projections [B, S, 3D] or, of the text, [B, T, 2D], and the norms that they need");
  return {projections.as<uint4>(), queryNorm.as<float>(), keyNorm.as<float>(), int(projections.shape[1]), int(parts)};
}

}  // namespace

QkNormQuantize::QkNormQuantize(const Attributes& attributes) : epsilon(attributes.number("epsilon", 1e-6f)) {}

/** image [B, S, 3D], text [B, T, 3D or 2D] → queries [B, H, padded, 64], tiles of keys [B, H, tiles, 8192] and of values [.., 8196]. */
void QkNormQuantize::compute(const Context& context) const {
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
  a.values = context.output(2, {batch, heads, a.tiles, SCALED_VALUE_BYTES}).as<uint8_t>();
  a.valueScales = valueScales(a.values, batch * heads * a.tiles);
  a.logitFactor = context.output(3, {1}).as<float>();
  if (batch * tokens == 0) return;
  // Heads vary fastest, so that concurrent blocks read adjacent memory.
  const dim3 grid{unsigned(heads), unsigned(a.tiles), unsigned(batch)};
  qkNormQuantize<<<grid, THREADS, 0, context.stream()>>>(a);
}

}  // namespace octet
