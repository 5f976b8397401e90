// Results of native sessions in device memory.
import { countElements } from '../dtype.ts'
import type { DeviceMemory, Mapping } from './device-memory.ts'
import { loadNative, type NativeTensor, type Place, viewMemory } from './native.ts'
import { concatenate, type DeviceTensor, HostTensor, type Tensor } from './session.ts'

/** Location of device tensors. `memory`: returns the memory for concatenated tensors; undefined on the host. */
export type Site = { readonly place: Place; readonly memory: (() => DeviceMemory) | undefined }

/** An output on the device. Its rows are views of its memory. */
export class NativeDeviceTensor implements DeviceTensor {
  readonly dims: readonly number[]
  readonly #site: Site
  readonly #tensor: NativeTensor
  readonly #free: () => void
  readonly #rows = new Map<number, NativeDeviceTensor>()

  /** `free` releases memory that onnxruntime does not own. */
  constructor(site: Site, tensor: NativeTensor, free: () => void = () => {}) {
    this.#site = site
    this.#tensor = tensor
    this.#free = free
    this.dims = tensor.dims
  }

  static nativeOf(tensor: DeviceTensor): NativeTensor {
    if (tensor instanceof NativeDeviceTensor) return tensor.#tensor
    throw new Error('the input is a device tensor of another kind of session')
  }

  row(index: number): DeviceTensor {
    const found = this.#rows.get(index)
    if (found) return found
    const [count, ...dims] = this.dims
    if (!(index >= 0 && index < count!)) throw new RangeError(`row ${index} is outside of ${count} rows`)
    const address = this.#tensor.address + BigInt(index * bytesOf(dims))
    const row = new NativeDeviceTensor(this.#site, this.#view(address, dims))
    this.#rows.set(index, row)
    return row
  }

  async join(others: readonly DeviceTensor[]): Promise<DeviceTensor> {
    const parts = [this, ...(others as NativeDeviceTensor[])]
    if (!this.#site.memory) return new HostTensor(concatenate(parts.map((part) => readTensor(part.#tensor))))
    const memory = this.#site.memory()
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
        await memory.copyOnDevice(at, part.#tensor.address, bytesOf(part.dims))
        at += BigInt(bytesOf(part.dims))
      }
      return new NativeDeviceTensor(this.#site, this.#view(address, dims), free)
    } catch (error) {
      free()
      throw error
    }
  }

  release(): void {
    for (const row of this.#rows.values()) row.release()
    this.#tensor.release()
    this.#free()
  }

  #view(address: bigint, shape: readonly number[]): NativeTensor {
    return viewMemory(this.#site.place, { address, dtype: 'float32', shape })
  }
}

const bytesOf = (dims: readonly number[]) => countElements(dims) * Float32Array.BYTES_PER_ELEMENT

/** Copies a tensor to onnxruntime's memory. */
export const copyToNative = ({ data, dims }: Tensor): NativeTensor => loadNative().Tensor.copyOf(data, dims)

/** Copies a tensor from native host memory to a typed array. */
export const readTensor = (tensor: NativeTensor): Tensor => ({ data: tensor.read(), dims: tensor.dims })
