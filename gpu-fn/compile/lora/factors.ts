// The matrices of a LoRA in one file, in their own precision.
import { LIMITS } from '../../contract.ts'
import { countElements } from '../../dtype.ts'
import type { FactorDtype, LoraModule } from '../../manifest.ts'
import { CheckpointError, quote } from '../checkpoint/error.ts'
import { convertFloat32ToFloat16, type ParameterDtype, toFloat32 } from '../checkpoint/formats/dtype.ts'
import { readBytes } from '../checkpoint/formats/read-tensor.ts'
import type { TensorInfo } from '../checkpoint/formats/safetensors.ts'
import type { FileModule } from './lora.ts'

const ALIGNMENT = 64
const FLOAT16_MAX = 65_504
/** FP8 is exact in float16. */
const STORED: Partial<Record<string, FactorDtype>> = {
  ...{ F32: 'float32', F16: 'float16', BF16: 'bfloat16', F8_E4M3: 'float16', F8_E5M2: 'float16' },
}

export class FactorWriter {
  readonly #parts: Uint8Array[] = []
  #end = 0

  /**
   * Reads and checks the matrices of a module with the update `scale` · up · down. Throws CheckpointError for non-float types, for NaN or
   * infinity, and for an update that can exceed the range of float16, the narrowest storage type, at the maximum strength of a request.
   */
  add({ module, target, rank, up, down }: FileModule, scale: number): LoraModule {
    const { network, weight, shape, rows, swap } = target
    const place = { network, weight, shape: [...shape], rows: [...rows] as [number, number], rank, scale }
    const [above, below] = [readFloats(up), readFloats(down)]
    const strength = Math.fround(scale * LIMITS.loras.scale)
    if (!(Number.isFinite(strength) && Math.abs(strength) * rank * above.largest * below.largest <= FLOAT16_MAX))
      throw new CheckpointError(
        up.file,
        `${quote(module)} has scale ${scale}: its update can exceed ${FLOAT16_MAX}, the maximum of float16`,
      )
    const columns = transpose(above.bytes, [rows[1] - rows[0], rank], swap)
    return { ...place, up: this.#append(up, columns), down: this.#append(down, below.bytes) }
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.#parts)
  }

  #append({ dtype }: TensorInfo, bytes: Uint8Array): LoraModule['up'] {
    const offset = Math.ceil(this.#end / ALIGNMENT) * ALIGNMENT
    this.#parts.push(new Uint8Array(offset - this.#end), bytes)
    this.#end = offset + bytes.byteLength
    return { dtype: STORED[dtype]!, offset }
  }
}

/** Transposes the bytes of a matrix [N, rank]; `swap` exchanges the first and second N / 2 rows. */
function transpose(bytes: Uint8Array, [n, rank]: [number, number], swap: boolean): Uint8Array {
  const Elements = bytes.length === 4 * n * rank ? Uint32Array : Uint16Array
  const given = new Elements(bytes.buffer as ArrayBuffer)
  const result = new Elements(n * rank)
  for (let row = 0; row < n; row++) {
    const column = swap ? (row + n / 2) % n : row
    for (let i = 0; i < rank; i++) result[i * n + column] = given[row * rank + i]!
  }
  return new Uint8Array(result.buffer)
}

/** Reads a matrix: the bytes to store, and the largest magnitude. */
function readFloats(info: TensorInfo): { bytes: Uint8Array; largest: number } {
  const { dtype, file, name } = info
  const allowed = Object.keys(STORED)
  if (!STORED[dtype])
    throw new CheckpointError(file, `${quote(name)} is ${dtype}; matrices of a LoRA are ${allowed.join(', ')}`)
  const bytes = readBytes(info)
  const values = new Float32Array(countElements(info.shape))
  if (!toFloat32(bytes, dtype as ParameterDtype, 1, values).finite)
    throw new CheckpointError(file, `${quote(name)} contains NaN or infinity`)
  const largest = values.reduce((max, value) => Math.max(max, Math.abs(value)), 0)
  if (!dtype.startsWith('F8')) return { bytes, largest }
  const halves = new Uint16Array(values.length)
  convertFloat32ToFloat16(values, halves)
  return { bytes: new Uint8Array(halves.buffer), largest }
}
