// More live values than the registers of a thread in a block of 1,024: ptxas spills.
extern "C" __global__ void __launch_bounds__(1024) spill(float* values) {
  float held[128];
#pragma unroll
  for (int i = 0; i < 128; i++) held[i] = values[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 128; i++) values[threadIdx.x * 128 + i] = held[127 - i];
}
