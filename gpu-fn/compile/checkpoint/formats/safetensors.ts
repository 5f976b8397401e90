// safetensors: 8 bytes of header length, a JSON header, then the tensors without gaps (github.com/huggingface/safetensors, "Format").
// Files are untrusted: the header is checked completely. This module does not read tensors.
import { CheckpointError, quote } from '../error.ts'
import { openRegularFile } from '../open-regular-file.ts'
import { identifyFormat } from './file-kind.ts'
import type { GgmlType } from './ggml-blocks.ts'
import { isRecord, parseObject } from './json.ts'
import { readLayerFormats } from './layer-formats.ts'

/** The format's limit on the header, and our limits on its content: SD3.5 with all encoders has some 2,300 tensors of at most 4 axes. */
export const LIMITS = { headerBytes: 100_000_000, tensors: 100_000, axes: 8, nameCharacters: 512 } as const

export const ELEMENT_BYTES = {
  ...{ BOOL: 1, U8: 1, I8: 1, U16: 2, I16: 2, U32: 4, I32: 4, U64: 8, I64: 8, C64: 8 },
  ...{ F4: 1 / 2, F6_E2M3: 3 / 4, F6_E3M2: 3 / 4, F8_E4M3FNUZ: 1, F8_E5M2FNUZ: 1, F8_E8M0: 1 },
  ...{ F8_E4M3: 1, F8_E5M2: 1, F16: 2, BF16: 2, F32: 4, F64: 8 },
} as const

export type Dtype = keyof typeof ELEMENT_BYTES | GgmlType

/** `offset` counts from the start of `file`; `bytes` equals the shape's product times the dtype's size. */
export type TensorInfo = {
  name: string
  dtype: Dtype
  shape: readonly number[]
  file: string
  offset: number
  bytes: number
  /** The quantized format that the header's metadata names for the tensor's layer. */
  format?: string | undefined
}

export type SafetensorsFile = {
  file: string
  tensors: Map<string, TensorInfo>
  metadata: ReadonlyMap<string, string>
  /** Size of the file, of all shards together for an index. */
  bytes: number
}

/** Reads and checks the header of one safetensors file. Throws CheckpointError. */
export async function readHeader(file: string): Promise<SafetensorsFile> {
  const { header, start, bytes } = await readHeaderBytes(file)
  const entries = Object.entries(parseObject(file, header, { depth: 3, commas: LIMITS.tensors * (LIMITS.axes + 4) }))
  const metadata = parseMetadata(file, entries.find(([name]) => name === '__metadata__')?.[1])
  const formats = readLayerFormats(file, metadata)
  const tensors = entries.filter(([name]) => name !== '__metadata__')
  if (tensors.length > LIMITS.tensors) throw new CheckpointError(file, `more than ${LIMITS.tensors} tensors`)
  const infos = tensors.map(([name, entry]) => ({
    ...parseTensor(file, name, entry, start),
    ...(formats.size > 0 && { format: formats.get(name.replace(/\.weight$/, '')) }),
  }))
  assertContiguous(file, infos, start, bytes)
  return {
    file,
    tensors: new Map(infos.map((info) => [info.name, info])),
    metadata,
    bytes,
  }
}

async function readHeaderBytes(file: string): Promise<{ header: Uint8Array; start: number; bytes: number }> {
  if ((await identifyFormat(file)) === 'gguf')
    throw new CheckpointError(file, 'is a GGUF file; give its path to the compiler, outside a diffusers directory')
  await using handle = await openRegularFile(file)
  const { size } = await handle.stat()
  const prefix = new Uint8Array(8)
  if (size < 8 || (await handle.read(prefix, 0, 8, 0)).bytesRead < 8) {
    throw new CheckpointError(file, `${size} bytes are too few for a safetensors file`)
  }
  const length = new DataView(prefix.buffer).getBigUint64(0, true)
  if (length > BigInt(Math.min(size - 8, LIMITS.headerBytes))) {
    throw new CheckpointError(
      file,
      `claims a header of ${length} bytes; the file has ${size - 8} after the length, and ${LIMITS.headerBytes} are allowed: the file is truncated or not a safetensors file; download it again`,
    )
  }
  const header = new Uint8Array(Number(length))
  const { bytesRead } = await handle.read(header, 0, header.length, 8)
  if (bytesRead < header.length)
    throw new CheckpointError(file, 'the header ends early: the file shrank while it was read')
  return { header, start: 8 + header.length, bytes: size }
}

function parseMetadata(file: string, metadata: unknown = {}): ReadonlyMap<string, string> {
  if (!isRecord(metadata)) throw new CheckpointError(file, '__metadata__ is not an object')
  return new Map(
    Object.entries(metadata).map(([key, value]) => {
      if (typeof value === 'string') return [key, value]
      throw new CheckpointError(file, `__metadata__ ${quote(key)} is not a string`)
    }),
  )
}

function parseTensor(file: string, name: string, entry: unknown, start: number): TensorInfo {
  const fail = (problem: string) => new CheckpointError(file, `tensor ${quote(name)}: ${problem}`)
  if (name.length > LIMITS.nameCharacters) throw fail(`the name is longer than ${LIMITS.nameCharacters} characters`)
  if (!isRecord(entry)) throw fail('its entry is not an object')
  const { dtype, shape, data_offsets: offsets, ...rest } = entry
  const unknown = Object.keys(rest)[0]
  if (unknown !== undefined) throw fail(`unknown field ${quote(unknown)}; dtype, shape and data_offsets are allowed`)
  if (!isDtype(dtype))
    throw fail(
      `unknown dtype ${typeof dtype === 'string' ? quote(dtype) : typeof dtype}; known are ${Object.keys(ELEMENT_BYTES).join(' ')}`,
    )
  if (!isCounts(shape) || shape.length > LIMITS.axes) {
    throw fail(`shape must be at most ${LIMITS.axes} non-negative integers`)
  }
  if (!isCounts(offsets) || offsets.length !== 2) throw fail('data_offsets must be two non-negative integers')
  const [begin, end] = offsets as [number, number]
  const expected = computeByteSize(shape, dtype)
  if (end - begin !== expected) {
    const takes = Number.isFinite(expected) ? expected : 'more than can be counted'
    throw fail(`data_offsets span ${end - begin} bytes; shape [${shape.join(', ')}] of ${dtype} takes ${takes}`)
  }
  return { name, dtype, shape, file, offset: start + begin, bytes: expected }
}

function isDtype(value: unknown): value is keyof typeof ELEMENT_BYTES {
  return typeof value === 'string' && Object.hasOwn(ELEMENT_BYTES, value)
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0)
}

/** The size in bytes. Infinite above the safe integers, so that no span of offsets matches it. */
function computeByteSize(shape: readonly number[], dtype: keyof typeof ELEMENT_BYTES): number {
  let count = 1
  for (const axis of shape) {
    count *= axis
    if (!Number.isSafeInteger(count)) return Number.POSITIVE_INFINITY
  }
  const size = count * ELEMENT_BYTES[dtype]
  return Number.isSafeInteger(size) ? size : Number.POSITIVE_INFINITY
}

/** Every byte after the header must belong to exactly one tensor. */
function assertContiguous(file: string, infos: readonly TensorInfo[], start: number, bytes: number): void {
  const sorted = infos.toSorted((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let end = start
  for (const info of sorted) {
    const fail = (problem: string) => new CheckpointError(file, `tensor ${quote(info.name)}: ${problem}`)
    if (info.offset < end) throw fail(`its bytes overlap those of another tensor by ${end - info.offset}`)
    if (info.offset > end) throw fail(`${info.offset - end} bytes before it belong to no tensor`)
    end += info.bytes
    if (end > bytes)
      throw fail(`ends at byte ${end} of a file of ${bytes}: the file is truncated or its header is wrong`)
  }
  if (end < bytes) throw new CheckpointError(file, `${bytes - end} bytes at the end belong to no tensor`)
}
