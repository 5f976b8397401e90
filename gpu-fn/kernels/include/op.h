// An operator of the domain `octet` as a C++ class. It has `name`, `inputs`, `outputs`, a constructor from Attributes, and `compute`.
#pragma once
#include <cuda_runtime.h>
#include <onnxruntime/onnxruntime_c_api.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace octet {

struct Port {
  ONNXTensorElementDataType type;
  OrtCustomOpInputOutputCharacteristic presence = INPUT_OUTPUT_REQUIRED;
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
  const OrtApi* api;
  explicit Caller(const OrtApi* api) : api(api) {}

  /** Throws an exception with onnxruntime's message if a call failed. */
  void call(OrtStatus* status) const {
    if (!status) return;
    const std::string message = api->GetErrorMessage(status);
    api->ReleaseStatus(status);
    throw std::runtime_error(message);
  }
};

/** The attributes of a node. */
class Attributes : Caller {
  const OrtKernelInfo* info;

  bool succeeds(OrtStatus* status) const {
    if (status) api->ReleaseStatus(status);
    return !status;
  }

 public:
  Attributes(const OrtApi* api, const OrtKernelInfo* info) : Caller(api), info(info) {}

  float number(const char* name, float fallback) const {
    float value;
    return succeeds(api->KernelInfoGetAttribute_float(info, name, &value)) ? value : fallback;
  }
  int64_t integer(const char* name, int64_t fallback) const {
    int64_t value;
    return succeeds(api->KernelInfoGetAttribute_int64(info, name, &value)) ? value : fallback;
  }
  std::vector<int64_t> integers(const char* name) const {
    size_t count = 0;
    if (!succeeds(api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &count))) return {};
    std::vector<int64_t> values(count);
    call(api->KernelInfoGetAttributeArray_int64(info, name, values.data(), &count));
    return values;
  }
};

class Context : Caller {
  OrtKernelContext* context;

 public:
  Context(const OrtApi* api, OrtKernelContext* context) : Caller(api), context(context) {}

  Tensor input(size_t index) const {
    const OrtValue* value = nullptr;
    call(api->KernelContext_GetInput(context, index, &value));
    Tensor tensor;
    if (!value) return tensor;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    size_t rank = 0;
    call(api->GetTensorTypeAndShape(value, &info));
    call(api->GetDimensionsCount(info, &rank));
    tensor.shape.resize(rank);
    call(api->GetDimensions(info, tensor.shape.data(), rank));
    api->ReleaseTensorTypeAndShapeInfo(info);
    call(api->GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
    return tensor;
  }

  Tensor output(size_t index, std::vector<int64_t> shape) const {
    OrtValue* value = nullptr;
    call(api->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
    Tensor tensor;
    if (!value) return tensor;
    call(api->GetTensorMutableData(value, &tensor.data));
    tensor.shape = std::move(shape);
    return tensor;
  }

  cudaStream_t stream() const {
    void* stream = nullptr;
    call(api->KernelContext_GetGPUComputeStream(context, &stream));
    return static_cast<cudaStream_t>(stream);
  }
};

/** OrtCustomOp version of the members that are set. Members of later versions are optional and null. */
constexpr uint32_t CUSTOM_OP_VERSION = 17;

/** onnxruntime's view of an operator class. */
template <class Operator>
struct CustomOp : OrtCustomOp {
  struct Kernel {
    const OrtApi* api;
    Operator op;
  };

  CustomOp() : OrtCustomOp{} {
    version = CUSTOM_OP_VERSION;
    GetName = [](const OrtCustomOp*) { return Operator::name; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CUDAExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp*) { return std::size(Operator::inputs); };
    GetOutputTypeCount = [](const OrtCustomOp*) { return std::size(Operator::outputs); };
    GetInputType = [](const OrtCustomOp*, size_t i) { return Operator::inputs[i].type; };
    GetOutputType = [](const OrtCustomOp*, size_t i) { return Operator::outputs[i].type; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t i) { return Operator::inputs[i].presence; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t i) { return Operator::outputs[i].presence; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };  // on the device
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(api, [&] { *kernel = new Kernel{api, Operator(Attributes(api, info))}; });
    };
    KernelComputeV2 = [](void* state, OrtKernelContext* context) {
      Kernel* kernel = static_cast<Kernel*>(state);
      return guarded(kernel->api, [&] {
        kernel->op.compute(Context(kernel->api, context));
        check(cudaGetLastError());
      });
    };
    KernelDestroy = [](void* state) { delete static_cast<Kernel*>(state); };
  }

  /** Converts an exception, which must not cross the C ABI, to a status with its message. */
  template <class Action>
  static OrtStatus* guarded(const OrtApi* api, Action action) {
    try {
      action();
      return nullptr;
    } catch (const std::exception& error) {
      const std::string message = std::string("octet.") + Operator::name + ": " + error.what();
      return api->CreateStatus(ORT_FAIL, message.c_str());
    }
  }
};

}  // namespace octet
