// Attention for Hopper. Three groups of four warps share a tile of keys and values, with 64 rows of queries each; a fourth group copies
// tiles in advance. The groups alternate on the tensor cores: while one multiplies, the others compute their softmax. Each multiprocessor
// has one persistent block, which starts the next rows while it writes the previous ones.
// PTX ISA 8.0, "Asynchronous warpgroup level matrix instructions"; FlashAttention-3, arXiv 2407.08608.
#include <algorithm>

#include "attention.h"
#include "op.h"
#include "softmax-halves.cuh"

namespace octet {
namespace {

constexpr int GROUP = 128, GROUPS = 3, STAGES = 4;
constexpr int THREADS = (GROUPS + 1) * GROUP;
constexpr int GROUP_QUERIES = 64;
constexpr int QUERIES = GROUPS * GROUP_QUERIES;
constexpr int ONES_BYTES = 8 * TILE;
constexpr int ALIGNMENT = 1024;

/** Barriers of a ring of buffers: `full` completes with a copy, `empty` when all groups have used the buffer. */
template <int LENGTH>
struct Ring {
  uint64_t full[LENGTH], empty[LENGTH];
};
struct Stage {
  uint8_t keys[KEY_BYTES], values[VALUE_BYTES];
  uint8_t ones[ONES_BYTES];  // 8 more rows of values
};
struct Shared {
  uint8_t queries[2][QUERIES * DEPTH];
  Stage stages[STAGES];
  Ring<2> queryRing;
  Ring<STAGES> tileRing;
};

// wgmma exists in sm_90a only. For other targets the kernel is empty and never started.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr float LOG2_E = 1.44269504f;
/**
 * Number of tiles accumulated on the tensor cores before promotion to float32. Hopper's FP8 accumulators have about 13 bits: with similar
 * probabilities, 512 products lose no precision.
 */
constexpr int SUMMED_TILES = 4;

__device__ inline uint32_t sharedAddress(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

__device__ inline void initialize(uint64_t& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(&barrier)), "r"(arrivals));
}
__device__ inline void arrive(uint64_t& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(&barrier)) : "memory");
}
__device__ inline void expect(uint64_t& barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(&barrier)), "r"(bytes) : "memory");
}
/** Waits for the end of the phase of this parity. */
__device__ inline void wait(uint64_t& barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(sharedAddress(&barrier)),
      "r"(parity)
      : "memory");
}
__device__ inline void copy(uint8_t* to, const uint8_t* from, int bytes, uint64_t& barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(sharedAddress(to)),
               "l"(from), "r"(bytes), "r"(sharedAddress(&barrier))
               : "memory");
}

/** The lower half of a matrix descriptor: the address in shared memory. Offsets are added in units of 16 bytes. */
__device__ inline uint32_t descriptor(const uint8_t* start) { return sharedAddress(start) >> 4; }
/** The upper half of a matrix descriptor: the stride between groups of 8 rows, and the swizzle. */
constexpr uint32_t upper(int groupBytes, uint32_t swizzle) { return uint32_t(groupBytes >> 4) | swizzle << 30; }
constexpr uint32_t CODES = upper(8 * DEPTH, 2), VALUES = upper(8 * TILE, 1);

__device__ inline void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/** Waits until at most PENDING groups of products are in progress. */
template <int PENDING>
__device__ inline void waitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define FOUR(kind, x, i) kind(x[i][0]), kind(x[i][1]), kind(x[i][2]), kind(x[i][3])
#define EIGHT_TIMES_FOUR(kind, x, i)                                                                                  \
  FOUR(kind, x, i), FOUR(kind, x, i + 1), FOUR(kind, x, i + 2), FOUR(kind, x, i + 3), FOUR(kind, x, i + 4),           \
      FOUR(kind, x, i + 5), FOUR(kind, x, i + 6), FOUR(kind, x, i + 7)
#define PAIRS "+r"
#define FLOATS "+f"

/** logits [64, 128] (+)= codes of queries [64, 32] · keys [128, 32] transposed. */
template <bool ACCUMULATE>
__device__ inline void multiplyCodes(HalfLogits& d, uint32_t queries, uint32_t keys) {
  asm volatile(
      "{\n"
      ".reg .b64 a, b;\n"
      ".reg .pred p;\n"
      "mov.b64 a, {%32, %34};\n"
      "mov.b64 b, {%33, %34};\n"
      "setp.ne.b32 p, %35, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f16.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "a, b, p, 1, 1;\n"
      "}"
      : EIGHT_TIMES_FOUR(PAIRS, d, 0)
      : "r"(queries), "r"(keys), "n"(CODES), "n"(int(ACCUMULATE)));
}

/** totals [64, 72] += probabilities [64, 32] · values [72, 32] transposed. The last 8 rows of the values are ones. */
__device__ inline void multiplyProbabilities(Totals& d, const uint32_t (&a)[4], uint32_t values) {
  asm volatile(
      "{\n"
      ".reg .b64 b;\n"
      "mov.b64 b, {%40, %41};\n"
      "wgmma.mma_async.sync.aligned.m64n72k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35}, "
      "{%36, %37, %38, %39}, b, 1, 1, 1;\n"
      "}"
      : EIGHT_TIMES_FOUR(FLOATS, d, 0), FOUR(FLOATS, d, 8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(values), "n"(VALUES));
}

__device__ inline void multiplyKeys(HalfLogits& logits, uint32_t queries, uint32_t keys) {
  // The first product ignores these zeros. Without them the compiler keeps the old values and serializes all products.
#pragma unroll
  for (int i = 0; i < TILE / 16; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) logits[i][j] = 0;
  }
  multiplyCodes<false>(logits, queries, keys);
  multiplyCodes<true>(logits, queries + 2, keys + 2);
}

__device__ inline void multiplyValues(Totals& totals, const Probabilities& probabilities, uint32_t values) {
#pragma unroll
  for (int i = 0; i < TILE / 32; i++) multiplyProbabilities(totals, probabilities[i], values + i * 2);
}

/** A position in a ring: the buffer, and the parity of its barriers' phase. */
template <int LENGTH>
struct Place {
  int index = 0, parity = 0;
  __device__ inline Place next() const { return index + 1 < LENGTH ? Place{index + 1, parity} : Place{0, parity ^ 1}; }
};

/** Rows of queries that a block processes together. */
struct Part {
  int64_t group;  // the sample and head
  int firstQuery;
};
__device__ inline int partsOf(const AttentionArguments& a) { return (a.queryTokens + QUERIES - 1) / QUERIES; }
__device__ inline Part partOf(const AttentionArguments& a, int index) {
  const int parts = partsOf(a);
  return {index / parts, index % parts * QUERIES};
}
/** The number of parts; a block processes every gridDim.x-th. */
__device__ inline int partCount(const AttentionArguments& a) { return a.batch * a.heads * partsOf(a); }

/** Run by one thread: copies queries, then tiles as their buffers become empty. */
__device__ inline void load(const AttentionArguments& a, Shared& shared) {
  Place<2> query;
  Place<STAGES> tile;
  for (int index = blockIdx.x; index < partCount(a); index += gridDim.x, query = query.next()) {
    const Part part = partOf(a, index);
    const int rows = min(QUERIES, a.paddedQueries - part.firstQuery);
    uint64_t& full = shared.queryRing.full[query.index];
    wait(shared.queryRing.empty[query.index], query.parity ^ 1);
    expect(full, rows * DEPTH);
    copy(shared.queries[query.index], a.queries + (part.group * a.paddedQueries + part.firstQuery) * DEPTH, rows * DEPTH, full);
    for (int i = 0; i < a.tiles; i++, tile = tile.next()) {
      uint64_t& full = shared.tileRing.full[tile.index];
      Stage& stage = shared.stages[tile.index];
      wait(shared.tileRing.empty[tile.index], tile.parity ^ 1);
      expect(full, KEY_BYTES + VALUE_BYTES);
      copy(stage.keys, a.keys + (part.group * a.tiles + i) * KEY_BYTES, KEY_BYTES, full);
      copy(stage.values, a.values + (part.group * a.tiles + i) * VALUE_BYTES, VALUE_BYTES, full);
    }
  }
}

/** Named barriers 1 to 3, one per group: a group waits until the group before it has issued its products. */
__device__ inline void waitForTurn(int group) { asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(2 * GROUP) : "memory"); }
__device__ inline void passTurn(int group) { asm volatile("bar.arrive %0, %1;" ::"r"(1 + group), "n"(2 * GROUP) : "memory"); }

/** State of a group's rows. `recent`: sums over the most recent tiles, before multiplication by `scale`, the scale of their values. */
struct Rows {
  HalfSoftmax softmax;
  Totals recent = {}, totals = {};
  float scale;

  __device__ inline void flush(float nextScale) {
    add(totals, recent, scale);
    scale = nextScale;
#pragma unroll
    for (int i = 0; i < DEPTH / 8 + 1; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) recent[i][j] = 0;
    }
  }
};

/** One group of warps. `tile` is the next tile whose probabilities are multiplied with its values. */
struct Group {
  const AttentionArguments& a;
  Shared& shared;
  const int index;
  Place<2> query;
  Place<STAGES> tile;
  int turnsLeft;

  __device__ inline uint32_t keysOf(Place<STAGES> tile) const {
    return descriptor(shared.stages[0].keys) + tile.index * (sizeof(Stage) >> 4);
  }
  __device__ inline uint32_t valuesOf(Place<STAGES> tile) const { return keysOf(tile) + (KEY_BYTES >> 4); }
  __device__ inline void release(uint64_t& empty) const {
    if (threadIdx.x % WARP == 0) arrive(empty);
  }
  /** Multiplies the current tile's probabilities and values while computing the logits of the next tile, `i`; then applies its softmax. */
  template <bool IS_LAST>
  __device__ inline void advance(Rows& rows, HalfLogits& logits, Probabilities& probabilities, uint32_t queries, const float* scales, int i) {
    const Place<STAGES> next = tile.next();
    const float scale = scales[i];
    wait(shared.tileRing.full[next.index], next.parity);
    waitForTurn(index);
    fence();
    multiplyKeys(logits, queries, keysOf(next));
    multiplyValues(rows.recent, probabilities, valuesOf(tile));
    commit();
    // The last group passes the first group's first turn before the loop, and therefore one turn fewer here.
    if (--turnsLeft > 0 || index + 1 < GROUPS) passTurn(index + 1 < GROUPS ? index + 1 : 0);
    waitForProducts<0>();
    release(shared.tileRing.empty[tile.index]);
    tile = next;
    if (__any_sync(~0u, i % SUMMED_TILES == 0 || scale != rows.scale)) rows.flush(scale);
    if (IS_LAST) mask(logits, i * TILE, a.keyTokens);
    accumulate(rows.softmax, logits, probabilities, rows.recent, rows.totals);
  }

  /** Attention of 64 query rows to all tiles. `scales`: value scales per tile. */
  __device__ inline void attend(Rows& rows, const float* scales) {
    const uint32_t queries = descriptor(shared.queries[0]) + query.index * (QUERIES * DEPTH >> 4) + index * (GROUP_QUERIES * DEPTH >> 4);
    const int last = a.tiles - 1;
    rows.scale = scales[0];
    HalfLogits logits;
    Probabilities probabilities;
    wait(shared.queryRing.full[query.index], query.parity);
    wait(shared.tileRing.full[tile.index], tile.parity);
    fence();
    multiplyKeys(logits, queries, keysOf(tile));
    commit();
    waitForProducts<0>();
    if (last == 0) mask(logits, 0, a.keyTokens);
    accumulate(rows.softmax, logits, probabilities, rows.recent, rows.totals);
    for (int i = 1; i < last; i++) advance<false>(rows, logits, probabilities, queries, scales, i);
    if (last > 0) advance<true>(rows, logits, probabilities, queries, scales, last);
    fence();
    multiplyValues(rows.recent, probabilities, valuesOf(tile));
    commit();
    waitForProducts<0>();
    release(shared.tileRing.empty[tile.index]);
    tile = tile.next();
    add(rows.totals, rows.recent, rows.scale);
  }
};

#endif

__global__ void __launch_bounds__(THREADS, 1) attendOnHopperKernel(const AttentionArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(ALIGNMENT) uint8_t bytes[];
  Shared& shared = *reinterpret_cast<Shared*>(bytes);
  const int warp = __shfl_sync(~0u, threadIdx.x / WARP, 0);  // uniform over the lanes, which the compiler can use
  if (threadIdx.x < ONES_BYTES / 4) {
    constexpr uint32_t ONES = 0x38383838;
    for (Stage& stage : shared.stages) reinterpret_cast<uint32_t*>(stage.ones)[threadIdx.x] = ONES;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  if (threadIdx.x == 0) {
    for (uint64_t& full : shared.queryRing.full) initialize(full, 1);
    for (uint64_t& full : shared.tileRing.full) initialize(full, 1);
    for (uint64_t& empty : shared.queryRing.empty) initialize(empty, GROUPS * GROUP / WARP);
    for (uint64_t& empty : shared.tileRing.empty) initialize(empty, GROUPS * GROUP / WARP);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  // A block starts with 128 registers per thread; the copying group gives most of its own to the multiplying groups.
  if (warp >= GROUPS * GROUP / WARP) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (threadIdx.x == GROUPS * GROUP) load(a, shared);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    const int parts = (partCount(a) - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x);
    Group group = {a, shared, warp * WARP / GROUP, {}, {}, parts * (a.tiles - 1)};
    if (group.turnsLeft > 0 && group.index == GROUPS - 1) passTurn(0);
    for (int index = blockIdx.x; index < partCount(a); index += gridDim.x) {
      const Part part = partOf(a, index);
      Rows rows = {HalfSoftmax(*a.logitFactor * LOG2_E / 8)};
      group.attend(rows, a.valueScales + part.group * a.tiles);
      group.release(shared.queryRing.empty[group.query.index]);
      group.query = group.query.next();
      const int64_t stride = int64_t(a.heads) * DEPTH, sample = part.group / a.heads, head = part.group % a.heads;
      const int firstRow = part.firstQuery + warp * 16;
      half* out = a.out + (sample * a.queryTokens + firstRow) * stride + head * DEPTH;
      writeRows(rows.totals, out, stride, a.queryTokens - firstRow);
    }
  }
#endif
}

}  // namespace

void attendOnHopper(const AttentionArguments& a, cudaStream_t stream) {
  int device = 0, processors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaFuncSetAttribute(attendOnHopperKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)));
  const int parts = (a.queryTokens + QUERIES - 1) / QUERIES * a.heads * a.batch;
  attendOnHopperKernel<<<std::min(parts, processors), THREADS, sizeof(Shared), stream>>>(a);
}

}  // namespace octet
