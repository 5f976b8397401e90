// FP8 × FP8 on the tensor cores through cuBLASLt: codes [M, K] · weight [N, K] transposed, times a scale for each row of both, plus a bias.
// On Hopper cuBLASLt applies these scales in the product. On other GPUs it scales whole tensors only, so a second kernel applies the row
// scales; on Hopper as well for a few long rows, for which cuBLASLt has no algorithm with row scales and a bias.
#include <cublasLt.h>
#include <cuda_fp16.h>

#include <map>
#include <mutex>
#include <optional>
#include <tuple>

#include "operators.h"

namespace octet {
namespace {

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(std::string("cublasLt: ") + cublasLtGetStatusName(status));
}

constexpr size_t WORKSPACE_BYTES = 32 << 20;
constexpr size_t SECOND_INPUT = 5;
/** Multiplied with this, a sum of 9728 products of two codes of 448 fits float16. */
constexpr float PORTABLE_FACTOR = 1.f / 32768;

/** cuBLASLt is column-major: it computes Y transposed [N, M] = weight · codes transposed. */
struct Plan {
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t weight, codes, result;
  cublasLtMatmulAlgo_t algorithm;
};
struct Size {
  int m, n, k;
  bool rowScales;
  auto key() const { return std::make_tuple(m, n, k, rowScales); }
  bool operator<(const Size& other) const { return key() < other.key(); }
};

template <class T>
void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value));
}

/** A side stream in parallel to onnxruntime's, for the second product of a node. */
class SideStream {
  cudaEvent_t begin = nullptr, end = nullptr;

 public:
  cudaStream_t stream = nullptr;

  /** Makes the side stream wait for work already submitted to `main`. */
  void fork(cudaStream_t main) {
    if (!stream) {
      octet::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      octet::check(cudaEventCreateWithFlags(&begin, cudaEventDisableTiming));
      octet::check(cudaEventCreateWithFlags(&end, cudaEventDisableTiming));
    }
    octet::check(cudaEventRecord(begin, main));
    octet::check(cudaStreamWaitEvent(stream, begin));
  }
  /** Makes `main` wait for the side stream. */
  void join(cudaStream_t main) {
    octet::check(cudaEventRecord(end, stream));
    octet::check(cudaStreamWaitEvent(main, end));
  }
};

/** Operands of a matrix product. */
struct Operands {
  Tensor codes, scales, weight, weightScales, bias, y;
  int m() const { return int(codes.rows()); }
  int n() const { return int(weight.shape[0]); }
  int k() const { return int(codes.width()); }
};

/**
 * Shared by all Linear nodes of a GPU: one handle, one plan per size, and two workspaces, for the node's stream (one node runs at a time)
 * and for the side stream.
 */
class Products {
  cublasLtHandle_t handle = nullptr;
  std::map<Size, std::optional<Plan>> plans;

  std::optional<Plan> make(const Size& size, const void* scale) {
    Plan plan;
    check(cublasLtMatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    set<int8_t>(plan.product, CUBLASLT_MATMUL_DESC_FAST_ACCUM, 1);
    if (size.rowScales) {
      set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      set(plan.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scale);
      set(plan.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scale);
      set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_16F);
    }
    check(cublasLtMatrixLayoutCreate(&plan.weight, CUDA_R_8F_E4M3, size.k, size.n, size.k));
    check(cublasLtMatrixLayoutCreate(&plan.codes, CUDA_R_8F_E4M3, size.k, size.m, size.k));
    check(cublasLtMatrixLayoutCreate(&plan.result, CUDA_R_16F, size.n, size.m, size.n));

    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference));
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES,
                                               sizeof WORKSPACE_BYTES));
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, plan.product, plan.weight, plan.codes, plan.result,
                                                                 plan.result, preference, 1, &found, &count);
    check(cublasLtMatmulPreferenceDestroy(preference));
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) return {};
    check(status);
    plan.algorithm = found.algo;
    return plan;
  }

 public:
  std::mutex mutex;
  SideStream side;
  void *workspace = nullptr, *sideWorkspace = nullptr;

  /** The plan for matrices of a size; null if cuBLASLt has no algorithm. */
  Plan* plan(const Size& size, const void* scale) {
    if (!handle) check(cublasLtCreate(&handle));
    auto found = plans.find(size);
    if (found == plans.end()) found = plans.emplace(size, make(size, scale)).first;
    return found->second ? &*found->second : nullptr;
  }

  void run(const Plan& plan, float factor, const Operands& o, void*& workspace, cudaStream_t stream) {
    if (!workspace) octet::check(cudaMalloc(&workspace, WORKSPACE_BYTES));
    const float zero = 0;
    check(cublasLtMatmul(handle, plan.product, &factor, o.weight.data, plan.weight, o.codes.data, plan.codes, &zero, o.y.data,
                         plan.result, o.y.data, plan.result, &plan.algorithm, workspace, WORKSPACE_BYTES, stream));
  }
};

/** A handle of cuBLASLt belongs to the GPU that was current at its creation. */
Products& productsOf(int device) {
  static std::mutex mutex;
  static std::map<int, Products> products;
  const std::lock_guard lock(mutex);
  return products[device];
}

/** y [M, N] ← y · factor · row scale · column scale + bias, in place. */
__global__ void applyScales(half2* y, const float* rowScales, const float2* columnScales, const half2* bias, int pairs, float factor) {
  const int64_t row = blockIdx.x;
  const int column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= pairs) return;
  const float scale = rowScales[row] * factor;
  const float2 value = __half22float2(y[row * pairs + column]), b = __half22float2(bias[column]), c = columnScales[column];
  y[row * pairs + column] = __floats2half2_rn(value.x * scale * c.x + b.x, value.y * scale * c.y + b.y);
}

bool scalesRows(int device) {
  int major = 0;
  octet::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9;
}

/** Reads operands from the inputs starting at this index. */
Operands operandsOf(const Context& context, size_t input, size_t output) {
  Operands o = {context.input(input), context.input(input + 1), context.input(input + 2), context.input(input + 3),
                context.input(input + 4)};
  require(o.weight.shape.size() == 2 && o.weight.shape[1] == o.k() && o.k() % 16 == 0 && o.n() % 16 == 0,
          "takes codes [.., K] and a weight [N, K] with N and K multiples of 16");
  require(o.scales.rows() * o.scales.width() == o.m() && o.weightScales.rows() * o.weightScales.width() == o.n() && o.bias.width() == o.n(),
          "needs a scale per row of the codes, and a scale and a bias per row of the weight");
  std::vector<int64_t> shape = o.codes.shape;
  shape.back() = o.n();
  o.y = context.output(output, shape);
  return o;
}

/** Enqueues factor · product + bias on a stream. */
void multiply(Products& products, const Operands& o, float factor, bool rowScales, void*& workspace, cudaStream_t stream) {
  if (o.m() == 0) return;
  Size size = {o.m(), o.n(), o.k(), rowScales};
  Plan* plan = rowScales ? products.plan(size, o.scales.data) : nullptr;
  if (plan) {
    set(plan->product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(o.weightScales.data));
    set(plan->product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(o.scales.data));
    set(plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(o.bias.data));
    return products.run(*plan, factor, o, workspace, stream);
  }
  size.rowScales = false;
  plan = products.plan(size, nullptr);
  require(plan, "cublasLt has no algorithm for this size");
  products.run(*plan, PORTABLE_FACTOR, o, workspace, stream);
  constexpr int THREADS = 256;
  const int pairs = o.n() / 2;
  const dim3 grid(unsigned(o.m()), (pairs + THREADS - 1) / THREADS);
  applyScales<<<grid, THREADS, 0, stream>>>(o.y.as<half2>(), o.scales.as<float>(), o.weightScales.as<float2>(), o.bias.as<half2>(),
                                            pairs, factor / PORTABLE_FACTOR);
}

}  // namespace

/** `portable` selects the path of the other GPUs on Hopper too, for tests. */
Linear::Linear(const Attributes& attributes) : portable(attributes.integer("portable", 0)), factor(attributes.number("factor", 1)) {}

/**
 * codes [B, S, K], scales [B, S], weight [N, K], weight scales [N] or [N, 1], bias [N] → factor · product + bias, [B, S, N]. A second
 * product runs concurrently on multiprocessors left idle by the first.
 */
void Linear::compute(const Context& context) const {
  const Operands first = operandsOf(context, 0, 0);
  int device = 0;
  octet::check(cudaGetDevice(&device));
  const cudaStream_t stream = context.stream();
  const bool rowScales = !portable && scalesRows(device);
  Products& products = productsOf(device);
  const std::lock_guard lock(products.mutex);
  if (!context.input(SECOND_INPUT)) return multiply(products, first, factor, rowScales, products.workspace, stream);
  const Operands second = operandsOf(context, SECOND_INPUT, 1);
  products.side.fork(stream);
  multiply(products, first, factor, rowScales, products.workspace, stream);
  multiply(products, second, factor, rowScales, products.sideWorkspace, products.side.stream);
  products.side.join(stream);
}

}  // namespace octet
