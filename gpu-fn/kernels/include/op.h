// An operator of the domain `octet` as a C++ class. It has `name`, `inputs`, `outputs`, a constructor from Attributes, and `compute`.
#pragma once
#include <cuda_runtime.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort.h"

namespace octet {

struct Port {
  ort::Type type;
  ort::Presence presence = ort::REQUIRED;
};

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

inline void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

/** A tensor on the device; `data` is null for an optional input or output without a value. */
struct Tensor {
  void* data = nullptr;
  std::vector<int64_t> shape;

  explicit operator bool() const { return data != nullptr; }
  int64_t width() const { return shape.back(); }
  /** Product of all axes but the last. */
  int64_t rows() const {
    int64_t n = 1;
    for (size_t i = 0; i + 1 < shape.size(); i++) n *= shape[i];
    return n;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

class Caller {
 protected:
  const ort::Api* api;
  explicit Caller(const ort::Api* api) : api(api) {}

  template <class... Arguments>
  void call(ort::Function function, Arguments... arguments) const {
    if (ort::call(api, function, arguments...)) throw std::runtime_error("onnxruntime rejected a call of the kernel");
  }
};

/** The attributes of a node. */
class Attributes : Caller {
  const ort::KernelInfo* info;

  template <class... Arguments>
  bool find(ort::Function function, Arguments... arguments) const {
    ort::Status* status = ort::call(api, function, info, arguments...);
    if (status) reinterpret_cast<void (*)(ort::Status*)>(api->functions[ort::ReleaseStatus])(status);
    return !status;
  }

 public:
  Attributes(const ort::Api* api, const ort::KernelInfo* info) : Caller(api), info(info) {}

  float number(const char* name, float fallback) const {
    float value;
    return find(ort::KernelInfoGetAttribute_float, name, &value) ? value : fallback;
  }
  int64_t integer(const char* name, int64_t fallback) const {
    int64_t value;
    return find(ort::KernelInfoGetAttribute_int64, name, &value) ? value : fallback;
  }
  std::vector<int64_t> integers(const char* name) const {
    size_t count = 0;
    if (!find(ort::KernelInfoGetAttributeArray_int64, name, static_cast<int64_t*>(nullptr), &count)) return {};
    std::vector<int64_t> values(count);
    find(ort::KernelInfoGetAttributeArray_int64, name, values.data(), &count);
    return values;
  }
};

class Context : Caller {
  ort::KernelContext* context;

 public:
  Context(const ort::Api* api, ort::KernelContext* context) : Caller(api), context(context) {}

  Tensor input(size_t index) const {
    const ort::Value* value = nullptr;
    call(ort::KernelContext_GetInput, static_cast<const ort::KernelContext*>(context), index, &value);
    Tensor tensor;
    if (!value) return tensor;
    ort::Shape* shape = nullptr;
    size_t rank = 0;
    call(ort::GetTensorTypeAndShape, value, &shape);
    call(ort::GetDimensionsCount, static_cast<const ort::Shape*>(shape), &rank);
    tensor.shape.resize(rank);
    call(ort::GetDimensions, static_cast<const ort::Shape*>(shape), tensor.shape.data(), rank);
    reinterpret_cast<void (*)(ort::Shape*)>(api->functions[ort::ReleaseTensorTypeAndShapeInfo])(shape);
    call(ort::GetTensorMutableData, const_cast<ort::Value*>(value), &tensor.data);
    return tensor;
  }

  Tensor output(size_t index, std::vector<int64_t> shape) const {
    ort::Value* value = nullptr;
    call(ort::KernelContext_GetOutput, context, index, static_cast<const int64_t*>(shape.data()), shape.size(), &value);
    Tensor tensor;
    if (!value) return tensor;
    call(ort::GetTensorMutableData, value, &tensor.data);
    tensor.shape = std::move(shape);
    return tensor;
  }

  cudaStream_t stream() const {
    void* stream = nullptr;
    call(ort::KernelContext_GetGPUComputeStream, static_cast<const ort::KernelContext*>(context), &stream);
    return static_cast<cudaStream_t>(stream);
  }
};

/** onnxruntime's view of an operator class. */
template <class Operator>
struct CustomOp : ort::CustomOp {
  struct Kernel {
    const ort::Api* api;
    Operator op;
  };

  CustomOp() : ort::CustomOp{} {
    version = ort::API_VERSION;
    getName = [](const ort::CustomOp*) { return Operator::name; };
    getExecutionProvider = [](const ort::CustomOp*) { return "CUDAExecutionProvider"; };
    getInputCount = [](const ort::CustomOp*) { return std::size(Operator::inputs); };
    getOutputCount = [](const ort::CustomOp*) { return std::size(Operator::outputs); };
    getInputType = [](const ort::CustomOp*, size_t i) { return Operator::inputs[i].type; };
    getOutputType = [](const ort::CustomOp*, size_t i) { return Operator::outputs[i].type; };
    getInputPresence = [](const ort::CustomOp*, size_t i) { return Operator::inputs[i].presence; };
    getOutputPresence = [](const ort::CustomOp*, size_t i) { return Operator::outputs[i].presence; };
    getInputMemoryType = [](const ort::CustomOp*, size_t) { return 0; };  // OrtMemTypeDefault: on the device
    createKernelV2 = [](const ort::CustomOp*, const ort::Api* api, const ort::KernelInfo* info, void** kernel) {
      return guarded(api, [&] { *kernel = new Kernel{api, Operator(Attributes(api, info))}; });
    };
    computeV2 = [](void* state, ort::KernelContext* context) {
      Kernel* kernel = static_cast<Kernel*>(state);
      return guarded(kernel->api, [&] {
        kernel->op.compute(Context(kernel->api, context));
        check(cudaGetLastError());
      });
    };
    destroyKernel = [](void* state) { delete static_cast<Kernel*>(state); };
  }

  /** Converts an exception, which must not cross the C ABI, to a status with its message. */
  template <class Action>
  static ort::Status* guarded(const ort::Api* api, Action action) {
    constexpr int FAIL = 1;
    try {
      action();
      return nullptr;
    } catch (const std::exception& error) {
      const std::string message = std::string("octet.") + Operator::name + ": " + error.what();
      return ort::call(api, ort::CreateStatus, FAIL, message.c_str());
    }
  }
};

}  // namespace octet
