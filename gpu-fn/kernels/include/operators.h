// The operators of domain `octet`. kernels/reference.ts defines their results in ONNX operators.
#pragma once
#include "op.h"

namespace octet {

constexpr ONNXTensorElementDataType FLOAT = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType FLOAT16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr ONNXTensorElementDataType FLOAT8E4M3FN = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN;
constexpr ONNXTensorElementDataType UINT8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
constexpr OrtCustomOpInputOutputCharacteristic OPTIONAL = INPUT_OUTPUT_OPTIONAL;

struct ModulateQuantize {
  static constexpr const char* name = "ModulateQuantize";
  /** stream, modulation, branches; the same for a second stream */
  static constexpr Port inputs[] = {{FLOAT16},           {FLOAT},           {FLOAT16, OPTIONAL}, {FLOAT16, OPTIONAL},
                                    {FLOAT16, OPTIONAL}, {FLOAT, OPTIONAL}, {FLOAT16, OPTIONAL}, {FLOAT16, OPTIONAL}};
  /** sum with the branches, then codes and scales per modulation; the same for the second stream */
  static constexpr Port outputs[] = {
      {FLOAT16, OPTIONAL}, {FLOAT8E4M3FN},           {FLOAT},           {FLOAT8E4M3FN, OPTIONAL}, {FLOAT, OPTIONAL},
      {FLOAT16, OPTIONAL}, {FLOAT8E4M3FN, OPTIONAL}, {FLOAT, OPTIONAL}, {FLOAT8E4M3FN, OPTIONAL}, {FLOAT, OPTIONAL}};

  explicit ModulateQuantize(const Attributes&);
  void compute(const Context&) const;

  /** Offsets in the modulation. */
  struct Offsets {
    std::vector<int64_t> shifts, scales, gates;
  };

 private:
  Offsets first, second;
  float branchFactor, epsilon;
};

struct GeluQuantize {
  static constexpr const char* name = "GeluQuantize";
  /** one or two tensors of the same width */
  static constexpr Port inputs[] = {{FLOAT16}, {FLOAT16, OPTIONAL}};
  /** codes and scales of each */
  static constexpr Port outputs[] = {{FLOAT8E4M3FN}, {FLOAT}, {FLOAT8E4M3FN, OPTIONAL}, {FLOAT, OPTIONAL}};

  explicit GeluQuantize(const Attributes&);
  void compute(const Context&) const;

 private:
  float factor;
};

struct QuantizeParts {
  static constexpr const char* name = "QuantizeParts";
  /** the joint sequence; a tensor with as many tokens as the first part */
  static constexpr Port inputs[] = {{FLOAT16}, {FLOAT8E4M3FN}};
  static constexpr Port outputs[] = {{FLOAT8E4M3FN}, {FLOAT}, {FLOAT8E4M3FN, OPTIONAL}, {FLOAT, OPTIONAL}};

  explicit QuantizeParts(const Attributes&) {}
  void compute(const Context&) const;
};

struct UnpackFp8 {
  static constexpr const char* name = "UnpackFp8";
  /** packed integers, group scales, activations of the product */
  static constexpr Port inputs[] = {{UINT8}, {UINT8}, {FLOAT8E4M3FN}};
  /** codes */
  static constexpr Port outputs[] = {{FLOAT8E4M3FN}};

  explicit UnpackFp8(const Attributes&) {}
  void compute(const Context&) const;
};

struct Linear {
  static constexpr const char* name = "Linear";
  /** codes, scales, weight, weight scales, bias; the same for a second product */
  static constexpr Port inputs[] = {{FLOAT8E4M3FN},           {FLOAT},           {FLOAT8E4M3FN},           {FLOAT},           {FLOAT16},
                                    {FLOAT8E4M3FN, OPTIONAL}, {FLOAT, OPTIONAL}, {FLOAT8E4M3FN, OPTIONAL}, {FLOAT, OPTIONAL}, {FLOAT16, OPTIONAL}};
  /** one per product */
  static constexpr Port outputs[] = {{FLOAT16}, {FLOAT16, OPTIONAL}};

  explicit Linear(const Attributes&);
  void compute(const Context&) const;

 private:
  bool portable;
  float factor;
};

struct AddLowRank {
  static constexpr const char* name = "AddLowRank";
  /** codes, scales, up, factors, down, row phases, column phases */
  static constexpr Port inputs[] = {{UINT8}, {FLOAT}, {FLOAT}, {FLOAT}, {FLOAT}, {FLOAT}, {FLOAT}};
  /** codes and scales of the sum */
  static constexpr Port outputs[] = {{UINT8}, {FLOAT}};

  explicit AddLowRank(const Attributes&) {}
  void compute(const Context&) const;
};

struct QkNormQuantize {
  static constexpr const char* name = "QkNormQuantize";
  /** q·k·v of the image; of the text; norm weights of the image's q and k; of the text's */
  static constexpr Port inputs[] = {{FLOAT16}, {FLOAT16, OPTIONAL}, {FLOAT}, {FLOAT}, {FLOAT, OPTIONAL}, {FLOAT, OPTIONAL}};
  /** queries, tiles of keys, tiles of values, the factor from products of codes to logits */
  static constexpr Port outputs[] = {{UINT8}, {UINT8}, {UINT8}, {FLOAT}};

  explicit QkNormQuantize(const Attributes&);
  void compute(const Context&) const;

 private:
  float epsilon;
};

struct Attention {
  static constexpr const char* name = "Attention";
  /** the outputs of QkNormQuantize, then its first two inputs */
  static constexpr Port inputs[] = {{UINT8}, {UINT8}, {UINT8}, {FLOAT}, {FLOAT16}, {FLOAT16, OPTIONAL}};
  static constexpr Port outputs[] = {{FLOAT16}};

  explicit Attention(const Attributes&);
  void compute(const Context&) const;

 private:
  bool portable;
};

struct GroupNorm {
  static constexpr const char* name = "GroupNorm";
  /** map, weight, bias; deferred bias, deferred skip */
  static constexpr Port inputs[] = {{FLOAT16}, {FLOAT}, {FLOAT}, {FLOAT, OPTIONAL}, {FLOAT16, OPTIONAL}};
  /** norm, scratch, the map with the deferred terms */
  static constexpr Port outputs[] = {{FLOAT16}, {FLOAT}, {FLOAT16, OPTIONAL}};

  explicit GroupNorm(const Attributes&);
  void compute(const Context&) const;

 private:
  int64_t groups;
  bool silu;
  float epsilon;
};

}  // namespace octet
