// The matrices of a LoRA in one file, in their own precision.
import { countElements } from '../../dtype.ts'
import type { LoraModule } from '../../manifest.ts'
import { CheckpointError, quote } from '../checkpoint/error.ts'
import { float32ToFloat16, type ParameterDtype, toFloat32 } from '../checkpoint/formats/dtype.ts'
import { readBytes } from '../checkpoint/formats/read-tensor.ts'
import type { TensorInfo } from '../checkpoint/formats/safetensors.ts'
import type { FileModule } from './lora.ts'

const ALIGNMENT = 64
/** FP8 is exact in float16. */
const STORED: Partial<Record<string, LoraModule['up']['dtype']>> = {
  ...{ F32: 'float32', F16: 'float16', BF16: 'bfloat16', F8_E4M3: 'float16', F8_E5M2: 'float16' },
}

export class FactorWriter {
  readonly #parts: Uint8Array[] = []
  #end = 0

  /** Reads and checks the matrices of a module. Throws CheckpointError for other types than floats, and for NaN and infinity. */
  add({ target, rank, up, down }: FileModule): Omit<LoraModule, 'scale'> {
    const { network, weight, shape, rows, swap } = target
    const place = { network, weight, shape: [...shape], rows: [...rows] as [number, number], rank }
    return { ...place, up: this.#append(up, swap), down: this.#append(down, false) }
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.#parts)
  }

  #append(info: TensorInfo, swap: boolean): LoraModule['up'] {
    const bytes = floatBytes(info)
    const half = bytes.byteLength / 2
    const offset = Math.ceil(this.#end / ALIGNMENT) * ALIGNMENT
    this.#parts.push(new Uint8Array(offset - this.#end))
    this.#parts.push(...(swap ? [bytes.subarray(half), bytes.subarray(0, half)] : [bytes]))
    this.#end = offset + bytes.byteLength
    return { dtype: STORED[info.dtype]!, offset }
  }
}

function floatBytes(info: TensorInfo): Uint8Array {
  const { dtype, file, name } = info
  const allowed = Object.keys(STORED)
  if (!STORED[dtype])
    throw new CheckpointError(file, `${quote(name)} is ${dtype}; matrices of a LoRA are ${allowed.join(', ')}`)
  const bytes = readBytes(info)
  const values = new Float32Array(countElements(info.shape))
  if (!toFloat32(bytes, dtype as ParameterDtype, 1, values).finite)
    throw new CheckpointError(file, `${quote(name)} holds NaN or infinity`)
  if (!dtype.startsWith('F8')) return bytes
  const halves = new Uint16Array(values.length)
  float32ToFloat16(values, halves)
  return new Uint8Array(halves.buffer)
}
