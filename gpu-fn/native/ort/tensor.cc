#include "ort/tensor.h"

#include <cstring>

namespace octet {
namespace {

using ort::api, ort::check;

struct ElementType {
  ONNXTensorElementDataType onnx;
  napi_typedarray_type array;
  size_t bytes;
};
constexpr ElementType TYPES[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, napi_float32_array, 4},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, napi_bigint64_array, 8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, napi_uint8_array, 1},
};

/** Element size in bytes, for the types above and for types used only by weights. */
size_t bytesOf(ONNXTensorElementDataType type) {
  for (const ElementType& each : TYPES)
    if (each.onnx == type) return each.bytes;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 || type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) return 2;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN || type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL) return 1;
  throw std::runtime_error("unsupported element type " + std::to_string(type));
}

size_t countOf(const std::vector<int64_t>& dims) {
  size_t count = 1;
  for (int64_t dim : dims) count *= dim;
  return count;
}

std::string join(const std::vector<int64_t>& dims) {
  std::string text;
  for (int64_t dim : dims) text += (text.empty() ? "" : ", ") + std::to_string(dim);
  return text;
}

ort::ShapeInfo shapeOf(const ort::Value& value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api().GetTensorTypeAndShape(value.get(), &info));
  return ort::ShapeInfo(info);
}

void* dataOf(const ort::Value& value) {
  void* data = nullptr;
  check(api().GetTensorMutableData(value.get(), &data));
  return data;
}

ort::Value allocateOnHost(ONNXTensorElementDataType type, const std::vector<int64_t>& dims) {
  OrtAllocator* allocator = nullptr;
  OrtValue* made = nullptr;
  check(api().GetAllocatorWithDefaultOptions(&allocator));
  check(api().CreateTensorAsOrtValue(allocator, dims.data(), dims.size(), type, &made));
  return ort::own(made);
}

ONNXTensorElementDataType typeOf(const ort::Value& value) {
  ONNXTensorElementDataType type;
  check(api().GetTensorElementType(shapeOf(value).get(), &type));
  return type;
}

}  // namespace

std::shared_ptr<Tensor> Tensor::copyOf(js::TypedArray data, std::vector<int64_t> dims) {
  if (countOf(dims) != data.length)
    throw std::runtime_error(std::to_string(data.length) + " values do not have the shape [" + join(dims) + "]");
  const ElementType* found = nullptr;
  for (const ElementType& type : TYPES)
    if (type.array == data.type) found = &type;
  if (!found) throw std::runtime_error("an input is neither float32 nor int64 nor uint8");
  const ort::Value value = allocateOnHost(found->onnx, dims);
  if (data.bytes > 0) std::memcpy(dataOf(value), data.data, data.bytes);
  return std::make_shared<Tensor>(value);
}

std::shared_ptr<Tensor> Tensor::view(std::optional<int64_t> gpu, uint64_t address, int64_t type, std::vector<int64_t> dims) {
  const auto element = static_cast<ONNXTensorElementDataType>(type);
  const size_t bytes = countOf(dims) * bytesOf(element);
  OrtValue* made = nullptr;
  check(api().CreateTensorWithDataAsOrtValue(ort::memoryOf(gpu).get(), reinterpret_cast<void*>(address), bytes, dims.data(),
                                             dims.size(), element, &made));
  return std::make_shared<Tensor>(ort::own(made));
}

const ort::Value& Tensor::value() const {
  if (!held) throw std::logic_error("the tensor was released");
  return held;
}

std::vector<int64_t> Tensor::dims() {
  const ort::ShapeInfo info = shapeOf(value());
  size_t rank = 0;
  check(api().GetDimensionsCount(info.get(), &rank));
  std::vector<int64_t> dims(rank);
  check(api().GetDimensions(info.get(), dims.data(), rank));
  return dims;
}

uint64_t Tensor::address() { return reinterpret_cast<uint64_t>(dataOf(value())); }

int64_t Tensor::type() { return typeOf(value()); }

size_t Tensor::bytes() { return countOf(dims()) * bytesOf(typeOf(value())); }

std::string Tensor::describe() { return std::to_string(type()) + " [" + join(dims()) + "]"; }

ort::Value Tensor::allocateLikeOnHost() { return allocateOnHost(typeOf(value()), dims()); }

TensorData Tensor::read() { return {value(), typeOf(value()), countOf(dims())}; }

napi_value js::Type<TensorData>::write(napi_env env, const TensorData& tensor) {
  for (const ElementType& type : TYPES) {
    if (type.onnx != tensor.type) continue;
    void* data = nullptr;
    napi_value buffer, array;
    const size_t bytes = tensor.count * type.bytes;
    check(env, napi_create_arraybuffer(env, bytes, &data, &buffer));
    if (bytes > 0) std::memcpy(data, dataOf(tensor.value), bytes);
    check(env, napi_create_typedarray(env, type.array, tensor.count, buffer, 0, &array));
    return array;
  }
  throw std::runtime_error("an output is neither float32 nor int64 nor uint8");
}

}  // namespace octet
