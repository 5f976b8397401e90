// Attention for Hopper: three groups of four warps share a tile of keys and values and take 64 rows of queries each; a fourth group
// has tiles copied ahead of them. Groups take turns at the tensor cores: while one multiplies, the others compute their softmax.
// PTX ISA 8.0, "Asynchronous warpgroup level matrix instructions"; FlashAttention-3, arXiv 2407.08608.
#include "attention.h"
#include "op.h"
#include "softmax.cuh"

namespace octet {
namespace {

constexpr int GROUP = 128, GROUPS = 3, STAGES = 4;
constexpr int THREADS = (GROUPS + 1) * GROUP;
constexpr int GROUP_QUERIES = 64;
constexpr int QUERIES = GROUPS * GROUP_QUERIES;
constexpr int STAGE_BYTES = KEY_BYTES + VALUE_BYTES;
constexpr int ALIGNMENT = 1024;

struct Shared {
  uint8_t queries[QUERIES * DEPTH];
  uint8_t stages[STAGES][STAGE_BYTES];  // keys, then values
  uint64_t full[STAGES], empty[STAGES], queriesFull;
};
constexpr int SHARED_BYTES = ALIGNMENT + sizeof(Shared);

// wgmma exists in sm_90a only; for the other targets the kernel is compiled empty and never started.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int WARP = 32;
constexpr float LOG2_E = 1.44269504f;

__device__ inline uint32_t sharedAddress(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

__device__ inline void initialise(uint64_t& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(&barrier)), "r"(arrivals));
}
__device__ inline void arrive(uint64_t& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(&barrier)) : "memory");
}
__device__ inline void expect(uint64_t& barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(&barrier)), "r"(bytes) : "memory");
}
/** Waits until the phase of this parity is over. */
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

/** A matrix in shared memory: where it is, how far apart its groups of 8 rows are, and its swizzle. */
__device__ inline uint64_t descriptor(const uint8_t* start, int groupBytes, uint64_t swizzle) {
  return uint64_t(sharedAddress(start) >> 4 & 0x3fff) | uint64_t(1) << 16 | uint64_t(groupBytes >> 4) << 32 | swizzle << 62;
}
constexpr uint64_t SWIZZLE_128 = 1, SWIZZLE_64 = 2;

__device__ inline void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ inline void waitForProducts() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

#define FOUR(x, i) "+f"(x[i][0]), "+f"(x[i][1]), "+f"(x[i][2]), "+f"(x[i][3])
#define EIGHT_TIMES_FOUR(x, i) \
  FOUR(x, i), FOUR(x, i + 1), FOUR(x, i + 2), FOUR(x, i + 3), FOUR(x, i + 4), FOUR(x, i + 5), FOUR(x, i + 6), FOUR(x, i + 7)

/** logits [64, 128] (+)= codes of queries [64, 32] · keys [128, 32] transposed. */
__device__ inline void multiplyCodes(Logits& d, uint64_t queries, uint64_t keys, int accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1;\n"
      "}"
      : EIGHT_TIMES_FOUR(d, 0), EIGHT_TIMES_FOUR(d, 8)
      : "l"(queries), "l"(keys), "r"(accumulate));
}

/** output [64, 64] += probabilities [64, 16] · values [16, 64]. */
__device__ inline void multiplyHalves(Output& d, const uint32_t (&a)[4], uint64_t values) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : EIGHT_TIMES_FOUR(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(values));
}

__device__ inline void multiplyKeys(Logits& logits, const uint8_t* queries, const uint8_t* stage) {
#pragma unroll
  for (int i = 0; i < 2; i++)
    multiplyCodes(logits, descriptor(queries + i * 32, 8 * DEPTH, SWIZZLE_64), descriptor(stage + i * 32, 8 * DEPTH, SWIZZLE_64), i);
}

__device__ inline void multiplyValues(Output& output, const Probabilities& probabilities, const uint8_t* stage) {
#pragma unroll
  for (int i = 0; i < TILE / 16; i++)
    multiplyHalves(output, probabilities[i], descriptor(stage + KEY_BYTES + i * 16 * DEPTH * 2, 8 * DEPTH * 2, SWIZZLE_128));
}

/** One thread has the block's queries copied, then tiles as their places become free. */
__device__ inline void load(const AttentionArguments& a, int64_t group, Shared& shared) {
  const int first = blockIdx.x * QUERIES, rows = min(QUERIES, a.paddedQueries - first);
  expect(shared.queriesFull, rows * DEPTH);
  copy(shared.queries, a.queries + (group * a.paddedQueries + first) * DEPTH, rows * DEPTH, shared.queriesFull);
  for (int tile = 0; tile < a.tiles; tile++) {
    const int at = tile % STAGES;
    if (tile >= STAGES) wait(shared.empty[at], (tile / STAGES - 1) % 2);
    expect(shared.full[at], STAGE_BYTES);
    copy(shared.stages[at], a.keys + (group * a.tiles + tile) * KEY_BYTES, KEY_BYTES, shared.full[at]);
    copy(shared.stages[at] + KEY_BYTES, a.values + (group * a.tiles + tile) * VALUE_BYTES, VALUE_BYTES, shared.full[at]);
  }
}

/** Named barriers 1 to 3, one a group: its turn has come when the group before it is done. */
__device__ inline void waitForTurn(int group) { asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(2 * GROUP) : "memory"); }
__device__ inline void passTurn(int group) { asm volatile("bar.arrive %0, %1;" ::"r"(1 + group), "n"(2 * GROUP) : "memory"); }

/** 64 rows of queries against all tiles. The product with the next tile's keys is under way while this one's values are multiplied. */
__device__ inline void attend(const AttentionArguments& a, const uint8_t* queries, Shared& shared, Softmax& softmax, Output& output) {
  const float factor = *a.logitFactor * LOG2_E / 8;
  const int last = a.tiles - 1;
  const int group = threadIdx.x / GROUP, following = (group + 1) % GROUPS;
  if (last > 0 && following == 0) passTurn(following);
  Logits logits;
  Probabilities probabilities;
  wait(shared.queriesFull, 0);
  wait(shared.full[0], 0);
  fence();
  multiplyKeys(logits, queries, shared.stages[0]);
  commit();
  waitForProducts();
  for (int tile = 0; tile < last; tile++) {
    const int at = tile % STAGES, next = (tile + 1) % STAGES;
    accumulate(softmax, logits, probabilities, output, factor);
    wait(shared.full[next], (tile + 1) / STAGES % 2);
    waitForTurn(group);
    fence();
    multiplyValues(output, probabilities, shared.stages[at]);
    multiplyKeys(logits, queries, shared.stages[next]);
    commit();
    waitForProducts();
    if (tile + 1 < last || following != 0) passTurn(following);
    if (threadIdx.x % WARP == 0) arrive(shared.empty[at]);
  }
  mask(logits, last * TILE, a.keyTokens);
  accumulate(softmax, logits, probabilities, output, factor);
  fence();
  multiplyValues(output, probabilities, shared.stages[last % STAGES]);
  commit();
  waitForProducts();
}

#endif

__global__ void __launch_bounds__(THREADS, 1) attendOnHopperKernel(const AttentionArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t unaligned[];
  Shared& shared = *reinterpret_cast<Shared*>(unaligned + (ALIGNMENT - sharedAddress(unaligned) % ALIGNMENT) % ALIGNMENT);
  const int head = blockIdx.y, sample = blockIdx.z, warp = threadIdx.x / WARP;
  const int64_t group = int64_t(sample) * a.heads + head;
  if (threadIdx.x == 0) {
    initialise(shared.queriesFull, 1);
    for (int i = 0; i < STAGES; i++) {
      initialise(shared.full[i], 1);
      initialise(shared.empty[i], GROUPS * GROUP / WARP);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  // A block begins with 128 registers a thread; the group that copies gives its own to those that multiply.
  if (warp >= GROUPS * GROUP / WARP) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (threadIdx.x == GROUPS * GROUP) load(a, group, shared);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    const int firstRow = blockIdx.x * QUERIES + warp * 16;
    Softmax softmax;
    Output output = {};
    attend(a, shared.queries + warp / 4 * GROUP_QUERIES * DEPTH, shared, softmax, output);
    const int64_t stride = int64_t(a.heads) * DEPTH;
    half* out = a.out + (int64_t(sample) * a.queryTokens + firstRow) * stride + head * DEPTH;
    writeRows(softmax, output, out, stride, a.queryTokens - firstRow);
  }
#endif
}

}  // namespace

void attendOnHopper(const AttentionArguments& a, cudaStream_t stream) {
  check(cudaFuncSetAttribute(attendOnHopperKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES));
  const dim3 grid((a.queryTokens + QUERIES - 1) / QUERIES, a.heads, a.batch);
  attendOnHopperKernel<<<grid, THREADS, SHARED_BYTES, stream>>>(a);
}

}  // namespace octet
