// Tensors of onnxruntime.
#pragma once
#include "js/js.h"
#include "ort/ort.h"

namespace octet {

/** The values of a tensor in host memory, to be copied to a typed array. */
struct TensorData {
  ort::Value value;
  ONNXTensorElementDataType type;
  size_t count;
};

class Tensor {
 public:
  static constexpr uint64_t ID = 1;

  /** A copy of values in host memory: float32, int64 or uint8. Throws if they do not fill the shape. */
  static std::shared_ptr<Tensor> copyOf(js::TypedArray data, std::vector<int64_t> dims);
  /** A tensor at an address of a GPU's memory, or without one of the host's, which it does not own. `type`: ONNX's number. */
  static std::shared_ptr<Tensor> view(std::optional<int64_t> gpu, uint64_t address, int64_t type, std::vector<int64_t> dims);

  explicit Tensor(ort::Value value) : held(std::move(value)) {}

  std::vector<int64_t> dims();
  uint64_t address();
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
  /** Throws if the values have no typed array of the project. */
  static napi_value write(napi_env env, const TensorData& data);
};
}  // namespace js

}  // namespace octet
