// Tensors of onnxruntime's C API.
import { countElements, type Dtype, ONNX_DATA_TYPES, tensorBytes } from '../dtype.ts'
import type { DeviceMemory, Mapping } from './device-memory.ts'
import type { OrtApi, Pointer } from './ort-api.ts'
import { concatenate, type DeviceTensor, HostTensor, type Tensor } from './session.ts'

const { float32: FLOAT32, uint8: UINT8, int64: INT64 } = ONNX_DATA_TYPES

/** `info`: onnxruntime's description of the memory of device tensors. `memory`: allocates joined ones; undefined on the host. */
export type Place = { readonly info: Pointer; readonly memory: (() => DeviceMemory) | undefined }

/** An output on the device. Its rows are views of its memory. */
export class NativeTensor implements DeviceTensor {
  readonly dims: readonly number[]
  readonly #api: OrtApi
  readonly #place: Place
  readonly #value: Pointer
  readonly #free: () => void
  readonly #rows = new Map<number, NativeTensor>()

  /** `free` releases memory that onnxruntime does not own. */
  constructor(api: OrtApi, place: Place, value: Pointer, free: () => void = () => {}) {
    this.#api = api
    this.#place = place
    this.#value = value
    this.#free = free
    this.dims = shapeOf(api, value).dims
  }

  static valueOf(tensor: DeviceTensor): Pointer {
    if (tensor instanceof NativeTensor) return tensor.#value
    throw new Error('the input is a device tensor of another kind of session')
  }

  row(index: number): DeviceTensor {
    const found = this.#rows.get(index)
    if (found) return found
    const [count, ...dims] = this.dims
    if (!(index >= 0 && index < count!)) throw new RangeError(`row ${index} is outside of ${count} rows`)
    const start = this.#start + BigInt(index * bytesOf(dims))
    const row = new NativeTensor(this.#api, this.#place, this.#view(start, dims))
    this.#rows.set(index, row)
    return row
  }

  async join(others: readonly DeviceTensor[]): Promise<DeviceTensor> {
    const parts = [this, ...(others as NativeTensor[])]
    if (!this.#place.memory)
      return new HostTensor(concatenate(parts.map((part) => copyFromNative(this.#api, part.#value))))
    const memory = this.#place.memory()
    const dims = [parts.reduce((rows, part) => rows + part.dims[0]!, 0), ...this.dims.slice(1)]
    const bytes = Math.ceil(bytesOf(dims) / memory.granularity) * memory.granularity
    const address = memory.reserve(bytes)
    let mapping: Mapping | undefined
    const free = () => {
      mapping?.recycle()
      memory.unreserve(address, bytes)
    }
    try {
      mapping = memory.map(address, bytes)
      let at = address
      for (const part of parts) {
        await memory.copyOnDevice(at, part.#start, bytesOf(part.dims))
        at += BigInt(bytesOf(part.dims))
      }
      return new NativeTensor(this.#api, this.#place, this.#view(address, dims), free)
    } catch (error) {
      free()
      throw error
    }
  }

  release(): void {
    for (const row of this.#rows.values()) row.release()
    this.#api.release('Value', this.#value)
    this.#free()
  }

  get #start(): Pointer {
    return this.#api.make('GetTensorMutableData', this.#value)
  }

  #view(address: Pointer, dims: readonly number[]): Pointer {
    return valueAt(this.#api, this.#place.info, { address, dtype: 'float32', shape: dims })
  }
}

/** An onnxruntime value at an address in the memory described by `info`, without ownership of the memory. */
export function valueAt(
  api: OrtApi,
  info: Pointer,
  { address, dtype, shape }: { address: Pointer; dtype: Dtype; shape: readonly number[] },
): Pointer {
  const dims = BigInt64Array.from(shape, BigInt)
  const given = [address, tensorBytes(dtype, shape), dims, dims.length, ONNX_DATA_TYPES[dtype]]
  return api.make('CreateTensorWithDataAsOrtValue', info, ...given)
}

const bytesOf = (dims: readonly number[]) => countElements(dims) * Float32Array.BYTES_PER_ELEMENT

/** Copies a tensor to onnxruntime's memory. */
export function copyToNative(api: OrtApi, { data, dims }: Tensor): Pointer {
  const count = countElements(dims)
  if (count !== data.length) throw new Error(`${data.length} values do not have the shape [${dims.join(', ')}]`)
  const type = data instanceof Float32Array ? FLOAT32 : data instanceof BigInt64Array ? INT64 : UINT8
  const shape = BigInt64Array.from(dims.map(BigInt))
  const value = api.make('CreateTensorAsOrtValue', api.make('GetAllocatorWithDefaultOptions'), shape, dims.length, type)
  if (count > 0) api.copy(api.make('GetTensorMutableData', value), data, data.byteLength)
  return value
}

/** Copies a value on the host to JavaScript's memory. */
export function copyFromNative(api: OrtApi, value: Pointer): Tensor {
  const { type, dims } = shapeOf(api, value)
  const count = countElements(dims)
  const data = arrayOf(type, count)
  if (count > 0) api.copy(data, api.make('GetTensorMutableData', value), data.byteLength)
  return { data, dims }
}

function arrayOf(type: number, count: number): Tensor['data'] {
  switch (type) {
    case FLOAT32:
      return new Float32Array(count)
    case INT64:
      return new BigInt64Array(count)
    case UINT8:
      return new Uint8Array(count)
    default:
      throw new Error('an output is neither float32 nor int64 nor uint8')
  }
}

function shapeOf(api: OrtApi, value: Pointer): { type: number; dims: number[] } {
  const info = api.make('GetTensorTypeAndShape', value)
  try {
    const type = api.count('GetTensorElementType', info)
    const dims = new BigInt64Array(api.count('GetDimensionsCount', info))
    if (dims.length > 0) api.call('GetDimensions', info, dims, dims.length)
    return { type, dims: Array.from(dims, Number) }
  } finally {
    api.release('TensorTypeAndShapeInfo', info)
  }
}
