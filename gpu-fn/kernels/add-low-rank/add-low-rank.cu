// AddLowRank: adds a low-rank update to an FP8 weight and quantizes the sum, as compile/graph/lora-graphs.ts defines it.
#include "operators.h"
#include "rows.cuh"

namespace octet {
namespace {

/** Rows of a block: each value of `down` is read once for all of them. */
constexpr int ROWS = 8;
constexpr int THREADS = 256, WARPS = THREADS / WARP;
/** Ranks whose factors are in shared memory at the same time. */
constexpr int CHUNK = 256;

/** Maximum magnitude of the exponent of the power of two by which a row's scale changes. */
constexpr int GROWTH = 64;
/** E4M3: exponents -6 to 8, where -6 is also that of subnormals; the largest finite code. */
constexpr int FIRST_EXPONENT = -6, EXPONENTS = 15, MANTISSA = 8, MAX_CODE = 126;
/** The part of a step in which rounding is random. */
constexpr float DITHER = 0.5f;

struct Update {
  const uint8_t* codes;
  const float *scales, *up, *factors, *down, *rowPhases, *columnPhases;
  uint8_t* updated;
  float* updatedScales;
  int rows, columns, rank;
};

/** The exponent of a positive value, and whether the value is that power of two. */
__device__ inline int exponentOf(float value, bool& isPower) {
  int exponent;
  isPower = frexpf(value, &exponent) == 0.5f;
  return exponent - 1;
}

__device__ inline int clamp(int value, int least, int most) { return min(max(value, least), most); }

/** The code of a sum whose magnitude is at most 448 after division by 2^growth. */
__device__ inline uint8_t dither(float sum, int growth, float phase) {
  const float scaled = ldexpf(fabsf(sum), -growth);
  bool isPower;
  const int exponent = scaled > 0 ? clamp(exponentOf(scaled, isPower) - FIRST_EXPONENT, 0, EXPONENTS - 1) : 0;
  const float steps = ldexpf(scaled, 3 - FIRST_EXPONENT - exponent);
  const float offset = (phase - floorf(phase)) * DITHER + (1 - DITHER) / 2;
  const int code = min(int(floorf(steps + offset)) + MANTISSA * exponent, MAX_CODE);
  return uint8_t(code + (sum < 0 ? 128 : 0));
}

__device__ inline float decode(uint8_t code) { return __half2float(half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))); }

/** factors ∘ up of the block's rows for ranks [first, first + CHUNK). */
__device__ inline void loadUp(const Update& p, float (*up)[ROWS], int first) {
  const int count = min(p.rank - first, CHUNK);
  for (int i = threadIdx.x; i < count * ROWS; i += THREADS) {
    const int rank = first + i / ROWS, row = blockIdx.x * ROWS + i % ROWS;
    up[i / ROWS][i % ROWS] = row < p.rows ? p.up[int64_t(rank) * p.rows + row] * p.factors[rank] : 0;
  }
}

/** `COUNT` adjacent values, aligned to their size. */
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Values {
  T at[COUNT];
};
template <int COUNT, typename T>
__device__ inline Values<T, COUNT> load(const T* from) {
  return *reinterpret_cast<const Values<T, COUNT>*>(from);
}

/** Sums of the block's rows for columns [column, column + COLUMNS). All threads of the block must call it for the same tile. */
template <int COLUMNS>
__device__ inline void sumColumns(const Update& p, float (*up)[ROWS], const float* scales, int column, float (&sums)[ROWS][COLUMNS]) {
  const bool isInside = column < p.columns;
#pragma unroll
  for (int row = 0; row < ROWS; row++)
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) sums[row][i] = 0;
  for (int first = 0; first < p.rank; first += CHUNK) {
    if (p.rank > CHUNK) {
      __syncthreads();
      loadUp(p, up, first);
      __syncthreads();
    }
    const int count = isInside ? min(p.rank - first, CHUNK) : 0;
    const float* down = p.down + int64_t(first) * p.columns + column;
#pragma unroll 4
    for (int rank = 0; rank < count; rank++, down += p.columns) {
      const auto values = load<COLUMNS>(down);
#pragma unroll
      for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) sums[row][i] = fmaf(up[rank][row], values.at[i], sums[row][i]);
    }
  }
#pragma unroll
  for (int row = 0; row < ROWS; row++) {
    const int64_t at = blockIdx.x * ROWS + row;
    if (!isInside || at >= p.rows) continue;
    const auto codes = load<COLUMNS>(p.codes + at * p.columns + column);
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) sums[row][i] = decode(codes.at[i]) + sums[row][i] / scales[row];
  }
}

/**
 * Each thread computes `COLUMNS` adjacent columns of a tile. Outputs may alias the codes and scales, because each thread reads its codes before
 * writing them.
 */
template <int COLUMNS>
__global__ void __launch_bounds__(THREADS, 2) addLowRank(const Update p) {
  __shared__ __align__(16) float up[CHUNK][ROWS];
  __shared__ float partial[WARPS][ROWS];
  __shared__ int growths[ROWS];
  __shared__ float scales[ROWS];
  const int start = threadIdx.x * COLUMNS;
  const int tiles = (p.columns + THREADS * COLUMNS - 1) / (THREADS * COLUMNS);
  loadUp(p, up, 0);
  const int row = blockIdx.x * ROWS + threadIdx.x;
  if (threadIdx.x < ROWS) scales[threadIdx.x] = row < p.rows ? p.scales[row] : 1;
  __syncthreads();

  float sums[ROWS][COLUMNS], largest[ROWS] = {};
  for (int tile = 0; tile < tiles; tile++) {
    sumColumns(p, up, scales, tile * THREADS * COLUMNS + start, sums);
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int k = 0; k < COLUMNS; k++) largest[i] = fmaxf(largest[i], fabsf(sums[i][k]));
  }
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const float most = warpMax(largest[i]);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP][i] = most;
  }
  __syncthreads();
  if (threadIdx.x < ROWS) {
    float most = 0;
    for (int warp = 0; warp < WARPS; warp++) most = fmaxf(most, partial[warp][threadIdx.x]);
    most *= 1.f / FP8_MAX;
    bool isPower = false;
    const int floor = most > 0 ? exponentOf(most, isPower) : -GROWTH;
    growths[threadIdx.x] = clamp(floor + (most > 0 && !isPower), -GROWTH, GROWTH);
    if (row < p.rows) p.updatedScales[row] = ldexpf(scales[threadIdx.x], growths[threadIdx.x]);
  }
  __syncthreads();

  for (int tile = 0; tile < tiles; tile++) {
    const int column = tile * THREADS * COLUMNS + start;
    sumColumns(p, up, scales, column, sums);
    if (column >= p.columns) continue;
    const auto phases = load<COLUMNS>(p.columnPhases + column);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int64_t at = blockIdx.x * ROWS + i;
      if (at >= p.rows) continue;
      Values<uint8_t, COLUMNS> codes;
#pragma unroll
      for (int k = 0; k < COLUMNS; k++) codes.at[k] = dither(sums[i][k], growths[i], p.rowPhases[at] + phases.at[k]);
      *reinterpret_cast<Values<uint8_t, COLUMNS>*>(p.updated + at * p.columns + column) = codes;
    }
  }
}

/** Whether all operands are aligned for vector access to column pairs. */
bool hasPairs(const Update& p) {
  const auto isAligned = [](const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; };
  const bool floats = isAligned(p.down, 2 * sizeof(float)) && isAligned(p.columnPhases, 2 * sizeof(float));
  return p.columns % 2 == 0 && floats && isAligned(p.codes, 2) && isAligned(p.updated, 2);
}

}  // namespace

/** codes [N, K], scales [N, 1], up [R, N], factors [R, 1], down [R, K], phases [N, 1] and [1, K] → codes and scales of the sum. */
void AddLowRank::compute(const Context& context) const {
  const Tensor codes = context.input(0), scales = context.input(1), up = context.input(2), factors = context.input(3);
  const Tensor down = context.input(4), rowPhases = context.input(5), columnPhases = context.input(6);
  const int64_t rows = codes.rows(), columns = codes.width(), rank = down.rows();
  const auto holds = [](const Tensor& tensor, int64_t count) { return tensor.rows() * tensor.width() == count; };
  require(holds(scales, rows) && holds(rowPhases, rows) && holds(columnPhases, columns), "needs a scale and a phase per row, a phase per column");
  require(holds(up, rows * rank) && holds(factors, rank) && holds(down, rank * columns), "takes up [R, N], factors [R, 1] and down [R, K]");
  const Tensor updated = context.output(0, codes.shape), updatedScales = context.output(1, scales.shape);
  if (rows == 0 || columns == 0) return;
  const Update p = {codes.as<uint8_t>(),      scales.as<float>(),       up.as<float>(),       factors.as<float>(),
                    down.as<float>(),         rowPhases.as<float>(),    columnPhases.as<float>(), updated.as<uint8_t>(),
                    updatedScales.as<float>(), int(rows),               int(columns),         int(rank)};
  const auto kernel = hasPairs(p) ? addLowRank<2> : addLowRank<1>;
  kernel<<<unsigned((rows + ROWS - 1) / ROWS), THREADS, 0, context.stream()>>>(p);
}

}  // namespace octet
