// Element types of tensors in graphs and in weights files.

/** Bytes of one element. */
export const ELEMENT_BYTES = {
  ...{ float32: 4, float16: 2, bfloat16: 2, float8e4m3fn: 1, int64: 8, uint8: 1, bool: 1 },
} as const
export type Dtype = keyof typeof ELEMENT_BYTES
export const DTYPES = Object.keys(ELEMENT_BYTES) as Dtype[]

/** ONNX TensorProto.DataType, which onnxruntime's C API uses as well. */
export const ONNX_DATA_TYPES: Record<Dtype, number> = {
  float32: 1,
  uint8: 2,
  int64: 7,
  bool: 9,
  float16: 10,
  bfloat16: 16,
  float8e4m3fn: 17,
}

/** Elements of a tensor. */
export const countElements = (shape: readonly number[]): number => shape.reduce((count, dim) => count * dim, 1)
export const computeTensorBytes = (dtype: Dtype, shape: readonly number[]): number =>
  ELEMENT_BYTES[dtype] * countElements(shape)
