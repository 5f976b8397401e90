// Changes an accumulator between two wgmma instructions of one group: ptxas serializes them.
#include <cstdint>

__device__ inline void multiply(float (&sum)[4], uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "l"(a), "l"(b));
#endif
}

extern "C" __global__ void serialized(float* sums, uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  float sum[4] = {};
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  multiply(sum, a, b);
  sum[0] *= 2;
  multiply(sum, a, b);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 4; i++) sums[threadIdx.x * 4 + i] = sum[i];
#endif
}
