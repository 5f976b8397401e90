// Tensors of onnxruntime.
#pragma once
#include "js/js.h"
#include "ort/ort.h"

namespace octet {

/** The elements of a host tensor, to be copied to a typed array. */
struct TensorData {
  ort::Value value;
  ONNXTensorElementDataType type;
  size_t count;
};

class Tensor {
 public:
  static constexpr uint64_t ID = 1;

  /** Copies float32, int64 or uint8 elements to a new host tensor. Throws if their count does not match the shape. */
  static std::shared_ptr<Tensor> copyOf(js::TypedArray data, std::vector<int64_t> dims);
  /** A tensor over existing memory of a GPU, or of the host if `gpu` is empty, without ownership. `type`: ONNX data type. */
  static std::shared_ptr<Tensor> view(std::optional<int64_t> gpu, uint64_t address, int64_t type, std::vector<int64_t> dims);

  explicit Tensor(ort::Value value) : held(std::move(value)) {}

  std::vector<int64_t> dims();
  uint64_t address();
  /** ONNX data type. */
  int64_t type();
  size_t bytes();
  /** Data type and shape, such as `1 [2, 64]`. */
  std::string describe();
  /** New host memory for a tensor of the same type and shape. */
  ort::Value allocateLikeOnHost();
  TensorData read();
  void release() { held = nullptr; }

  /** Throws if the tensor was released. */
  const ort::Value& value() const;

 private:
  ort::Value held;
};

namespace js {
template <>
struct Type<TensorData> {
  /** Throws for types other than float32, int64 and uint8. */
  static napi_value write(napi_env env, const TensorData& data);
};
}  // namespace js

}  // namespace octet
