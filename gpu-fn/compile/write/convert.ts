// Reads one block of a tensor from its checkpoint and converts it to the package's storage type. Runs in a worker thread.
import { hash } from 'node:crypto'
import {
  BYTES_PER_ELEMENT,
  bfloat16ToFloat16,
  type Conversion,
  float32ToFloat16,
  toFloat32,
} from '../checkpoint/formats/dtype.ts'
import { quantizeRows } from '../checkpoint/formats/fp8.ts'
import { assertConverted, type RowBlock, readRows } from '../checkpoint/formats/read-tensor.ts'
import type { Tensor } from '../checkpoint/tensor.ts'
import type { Storage } from '../graph/precision.ts'

export type Block = RowBlock & {
  readonly storage: Storage
  readonly channelsLast: boolean
}
export type Converted = {
  readonly output: Uint8Array
  readonly scales: Float32Array | null
  readonly digest: Uint8Array
  readonly sourceBytes: number
}
type Stored = Pick<Converted, 'output'> & Partial<Pick<Converted, 'scales'>> & { conversion: Conversion }

const FP8_NAN = 0x7f
// Every block of a thread is widened in the same buffer: the page faults of fresh ones would take longer than the conversion.
let floatsScratch = new Float32Array()

function scratchFloats(length: number): Float32Array {
  if (floatsScratch.length < length) floatsScratch = new Float32Array(length)
  return floatsScratch.subarray(0, length)
}

const FINITE: Conversion = { finite: true, overflow: false }

/** Reads, checks and converts one block. Throws CheckpointError for NaN, infinity, and values that the storage type cannot hold. */
export function convert(block: Block): Converted {
  const source = readRows(block)
  const digest = new Uint8Array(hash('sha256', source, 'buffer'))
  const { output, conversion, scales = null } = store(block, source)
  assertConverted(block, block.storage, conversion)
  const ordered = block.channelsLast ? channelsLast(output, block) : output
  return { output: ordered, scales, digest, sourceBytes: source.byteLength }
}

function store(block: Block, source: Uint8Array): Stored {
  if (block.storage === 'float16') return toHalves(block.tensor, source)
  if (block.storage === 'float8e4m3fn' && block.tensor.dtype === 'F8_E4M3') return keepCodes(block, source)
  const count = source.byteLength / BYTES_PER_ELEMENT[block.tensor.dtype]
  const values = block.storage === 'float32' ? new Float32Array(count) : scratchFloats(count)
  const conversion = toFloat32(source, block.tensor.dtype, block.tensor.scale, values)
  if (block.storage === 'float32') return { output: new Uint8Array(values.buffer), conversion }
  return { ...quantize(block, values), conversion }
}

function toHalves({ dtype, scale }: Tensor, source: Uint8Array): Stored {
  if (dtype === 'F16' && scale === 1) return { output: source.slice(), conversion: finiteHalves(source) }
  const halves = new Uint16Array(source.byteLength / BYTES_PER_ELEMENT[dtype])
  const output = new Uint8Array(halves.buffer)
  if (dtype === 'BF16' && scale === 1) return { output, conversion: bfloat16ToFloat16(source, halves) }
  const values = scratchFloats(halves.length)
  const widened = toFloat32(source, dtype, scale, values)
  const narrowed = float32ToFloat16(values, halves)
  return { output, conversion: { finite: widened.finite, overflow: widened.overflow || narrowed.overflow } }
}

/** Codes of FP8 checkpoints are copied: quantizing them again would add error. */
function keepCodes({ tensor, start, end }: Block, source: Uint8Array): Stored {
  const scales = new Float32Array(end - start).fill(tensor.scale)
  const finite = !source.some((code) => (code & 0x7f) === FP8_NAN)
  return { output: source.slice(), scales, conversion: { finite, overflow: false } }
}

function quantize({ start, end, columns }: Block, values: Float32Array) {
  const output = new Uint8Array(values.length)
  const scales = new Float32Array(end - start)
  quantizeRows(values, end - start, columns, output, scales)
  return { output, scales }
}

function finiteHalves(bytes: Uint8Array): Conversion {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
  let largest = 0
  for (let i = 0; i < halves.length; i++) largest = Math.max(largest, halves[i]! & 0x7fff)
  return largest < 0x7c00 ? FINITE : { finite: false, overflow: false }
}

/** Transposes each row [I, H, W] to [H, W, I]. */
function channelsLast(bytes: Uint8Array, { tensor, storage, start, end }: Block): Uint8Array {
  const [, channels, height, width] = tensor.shape as [number, number, number, number]
  const View = storage === 'float32' ? Uint32Array : Uint16Array
  const source = new View(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / View.BYTES_PER_ELEMENT)
  const output = new View(source.length)
  const area = height * width
  for (let row = 0; row < end - start; row++) {
    const base = row * channels * area
    for (let i = 0; i < channels; i++)
      for (let p = 0; p < area; p++) output[base + p * channels + i] = source[base + i * area + p]!
  }
  return new Uint8Array(output.buffer)
}
