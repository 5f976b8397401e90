// softmax(q · k / 8) · v: q, k, probabilities and v in FP8, sums in float32.
#include "attention.h"
#include "operators.h"
#include "rows.cuh"
#include "softmax.cuh"

namespace octet {
namespace {

constexpr int WARPS = 4, STAGES = 2;
constexpr int QUERIES = WARPS * 16;
constexpr int STAGE_BYTES = KEY_BYTES + VALUE_BYTES;
constexpr float LOG2_E = 1.44269504f;

__device__ inline uint32_t sharedAddress(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

__device__ inline void copyAsync(uint32_t to, const uint8_t* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

/** Starts asynchronous copies of a tile's keys and values, with unchanged layout. Tile indices run over all samples and heads. */
__device__ inline void loadTile(uint32_t stage, const AttentionArguments& a, int tile) {
  const uint8_t *keys = a.keys + int64_t(tile) * KEY_BYTES, *values = a.values + int64_t(tile) * VALUE_BYTES;
  for (int at = threadIdx.x * CHUNK; at < KEY_BYTES; at += WARPS * WARP * CHUNK) copyAsync(stage + at, keys + at);
  for (int at = threadIdx.x * CHUNK; at < VALUE_BYTES; at += WARPS * WARP * CHUNK) copyAsync(stage + KEY_BYTES + at, values + at);
  asm volatile("cp.async.commit_group;");
}

__device__ inline void loadMatrices(uint32_t (&m)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address));
}
__device__ inline void multiplyCodes(float (&d)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/** Adds the product of a tile's probabilities and values, multiplied by the tile's value scale, and the sums of the probabilities. */
__device__ inline void multiplyValues(Totals& totals, const Probabilities& probabilities, uint32_t values, float scale) {
  constexpr uint32_t ONES = 0x38383838;
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < DEPTH / 8 + 1; i++) {
    const bool isSum = i == DEPTH / 8;
    float product[4] = {};
#pragma unroll
    for (int j = 0; j < TILE / 64; j++) {
      uint32_t value[4] = {ONES, ONES, ONES, ONES};  // 8 channels, 16 tokens each
      if (!isSum) loadMatrices(value, values + valueChunk(i * 8 + lane % 8, j * 4 + lane / 8));
      multiplyCodes(product, probabilities[2 * j], value[0], value[1]);
      multiplyCodes(product, probabilities[2 * j + 1], value[2], value[3]);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) totals[i][j] += isSum ? product[j] : product[j] * scale;
  }
}

__global__ void __launch_bounds__(WARPS* WARP) attendPortablyKernel(const AttentionArguments a) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int head = blockIdx.y, sample = blockIdx.z;
  const int group = sample * a.heads + head;
  const int firstRow = blockIdx.x * QUERIES + warp * 16;

  uint32_t query[2][4];  // 32 values each: rows lane / 4 and lane / 4 + 8, bytes from 4 · (lane % 4) and from 4 · (lane % 4) + 16
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int row = firstRow + lane / 4 + i % 2 * 8;
    const uint8_t* tile = a.queries + (int64_t(group) * a.paddedQueries + row / TILE * TILE) * DEPTH;
    query[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(tile + keyChunk(row % TILE, i / 2) + lane % 4 * 4);
  }

  Softmax softmax;
  Totals totals = {};
  const float factor = *a.logitFactor * LOG2_E / 8;
  loadTile(sharedAddress(shared), a, group * a.tiles);
  for (int tile = 0; tile < a.tiles; tile++) {
    const uint32_t stage = sharedAddress(shared) + tile % STAGES * STAGE_BYTES;
    if (tile + 1 < a.tiles) {
      loadTile(sharedAddress(shared) + (tile + 1) % STAGES * STAGE_BYTES, a, group * a.tiles + tile + 1);
      asm volatile("cp.async.wait_group 1;");
    } else {
      asm volatile("cp.async.wait_group 0;");
    }
    __syncthreads();

    Logits logits = {};
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
      uint32_t key[4];  // 8 keys, 16 bytes each
      loadMatrices(key, stage + keyChunk(i * 8 + lane % 8, lane / 8));
      multiplyCodes(logits[i], query[0], key[0], key[1]);
      multiplyCodes(logits[i], query[1], key[2], key[3]);
    }
    if (tile == a.tiles - 1) mask(logits, tile * TILE, a.keyTokens);
    Probabilities probabilities;
    accumulate(softmax, logits, probabilities, totals, factor);
    multiplyValues(totals, probabilities, stage + KEY_BYTES, a.valueScales[group * a.tiles + tile]);
    __syncthreads();
  }
  const int64_t stride = int64_t(a.heads) * DEPTH;
  half* out = a.out + (sample * a.queryTokens + firstRow) * stride + head * DEPTH;
  writeRows(totals, out, stride, a.queryTokens - firstRow);
}

bool isHopper() {
  int device = 0, major = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9;
}

}  // namespace

void attendPortably(const AttentionArguments& a, cudaStream_t stream) {
  constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  check(cudaFuncSetAttribute(attendPortablyKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  const dim3 grid((a.queryTokens + QUERIES - 1) / QUERIES, a.heads, a.batch);
  attendPortablyKernel<<<grid, WARPS * WARP, SHARED_BYTES, stream>>>(a);
}

/** `portable` selects the kernel of the other GPUs on Hopper too, for tests. */
Attention::Attention(const Attributes& attributes) : portable(attributes.integer("portable", 0)) {}

/** → [B, S + T, D], or [B, S, D] if the text has no queries. */
void Attention::compute(const Context& context) const {
  const Tensor queries = context.input(0), keys = context.input(1), values = context.input(2), factor = context.input(3);
  const Tensor image = context.input(4), text = context.input(5);
  const int64_t batch = image.shape[0], width = image.width() / 3, heads = width / DEPTH;
  const int64_t tokens = image.shape[1] + (text ? text.shape[1] : 0);
  const int64_t queryTokens = text && text.width() == image.width() ? tokens : image.shape[1];
  require(queries.shape == std::vector<int64_t>{batch, heads, tilesOf(queryTokens) * TILE, DEPTH} &&
              keys.shape == std::vector<int64_t>{batch, heads, tilesOf(tokens), KEY_BYTES} &&
              values.shape == std::vector<int64_t>{batch, heads, tilesOf(tokens), SCALED_VALUE_BYTES},
          "takes the outputs of QkNormQuantize for the same projections");
  const Tensor out = context.output(0, {batch, queryTokens, width});
  if (batch * tokens == 0) return;
  const float* scales = valueScales(values.as<uint8_t>(), batch * heads * keys.shape[2]);
  const AttentionArguments a = {queries.as<uint8_t>(), keys.as<uint8_t>(), values.as<uint8_t>(), scales,
                                factor.as<float>(), out.as<half>(), int(batch), int(heads),
                                int(queryTokens), int(queries.shape[2]), int(tokens), int(keys.shape[2])};
  if (!portable && isHopper()) attendOnHopper(a, context.stream());
  else attendPortably(a, context.stream());
}

}  // namespace octet
