// GGUF (ggml docs/gguf.md): a header of metadata and tensor descriptions, then aligned tensors. `@huggingface/gguf` parses the header, which
// is untrusted: its size is bounded here, and every description is checked. This module does not read tensors.
import type { FileHandle } from 'node:fs/promises'
import type { GGUFParseOutput } from '@huggingface/gguf'
import { CheckpointError, quote } from '../error.ts'
import { openRegularFile } from '../open-regular-file.ts'
import { BLOCKS, bytesOf, type ParameterDtype } from './dtype.ts'
import { LIMITS, type SafetensorsFile, type TensorInfo } from './safetensors.ts'

type Library = typeof import('@huggingface/gguf')

/** A T5 file with its tokenizer has a header of some 1.2 MB. */
const HEADER_BYTES = 8_000_000
const READ_AHEAD = 500_000
const LARGEST_ALIGNMENT = 65_536
const DEFAULT_ALIGNMENT = 32

/** The numbers of types in ggml.h; the names of all others are in `GGMLQuantizationType`. */
const TYPES: Readonly<Record<number, ParameterDtype>> = {
  ...{ 0: 'F32', 1: 'F16', 2: 'Q4_0', 3: 'Q4_1', 6: 'Q5_0', 7: 'Q5_1', 8: 'Q8_0', 10: 'Q2_K', 11: 'Q3_K' },
  ...{ 12: 'Q4_K', 13: 'Q5_K', 14: 'Q6_K', 20: 'IQ4_NL', 23: 'IQ4_XS', 30: 'BF16' },
}

/**
 * Reads and checks the header of one GGUF file. Shapes are in the order of safetensors, and `rename` changes the names of tensors. Throws
 * CheckpointError.
 */
export async function readGguf(file: string, rename: (name: string) => string): Promise<SafetensorsFile> {
  await using handle = await openRegularFile(file)
  const { size } = await handle.stat()
  // Loaded here, because most checkpoints have no GGUF file and the library takes 0.1 s.
  const library = await import('@huggingface/gguf')
  const { tensorInfos, tensorInfoByteRange, littleEndian, ...header } = await parseHeader(file, handle, library)
  const metadata = new Map<string, unknown>(Object.entries(header.metadata))
  const fail = (problem: string) => new CheckpointError(file, problem)
  if (!littleEndian) throw fail('is a big-endian GGUF file; convert it with gguf_convert_endian.py of gguf-py')
  if (tensorInfoByteRange[1] > size) throw fail(`the header ends after the file, which has ${size} bytes`)
  if (tensorInfos.length > LIMITS.tensors) throw fail(`more than ${LIMITS.tensors} tensors`)
  assertWhole(file, metadata.get('split.count'))
  const start = align(tensorInfoByteRange[1], alignmentOf(file, metadata.get('general.alignment')))
  const tensors = new Map<string, TensorInfo>()
  for (const info of tensorInfos) {
    const dtype = TYPES[info.dtype]
    if (!dtype) throw refuseType(file, info.name, library.GGMLQuantizationType[info.dtype] ?? info.dtype)
    const name = rename(info.name)
    if (tensors.has(name)) throw fail(`two tensors have the name ${quote(name)}`)
    tensors.set(name, describeTensor(file, info, dtype, start, size))
  }
  assertDisjoint(file, [...tensors.values()])
  return { file, tensors, metadata: new Map(), bytes: size }
}

/** The library reads local files without a bound, so it receives the file's ranges as replies of a server. */
async function parseHeader(file: string, handle: FileHandle, { gguf }: Library): Promise<GGUFParseOutput> {
  try {
    return await gguf('https://file.invalid', {
      fetch: async (_, request) => new Response(await readRange(file, handle, new Headers(request?.headers))),
    })
  } catch (cause) {
    if (cause instanceof CheckpointError) throw cause
    throw new CheckpointError(file, `is not a valid GGUF file (${quote((cause as Error).message)})`, { cause })
  }
}

async function readRange(file: string, handle: FileHandle, headers: Headers): Promise<Uint8Array<ArrayBuffer>> {
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(headers.get('range') ?? '') ?? []
  const start = Number(from)
  const { size } = await handle.stat()
  // The library requests the next range when its read position is within READ_AHEAD of the end of the current one.
  if (size + READ_AHEAD < start)
    throw new CheckpointError(file, `the header ends after the file, which has ${size} bytes`)
  if (!(start < HEADER_BYTES)) throw new CheckpointError(file, `has a header of more than ${HEADER_BYTES} bytes`)
  const bytes = new Uint8Array(Math.max(0, Math.min(Number(to) + 1, size) - start))
  const { bytesRead } = await handle.read(bytes, 0, bytes.length, start)
  return bytes.subarray(0, bytesRead)
}

function assertWhole(file: string, parts: unknown): void {
  if (parts === undefined || Number(parts) <= 1) return
  throw new CheckpointError(file, `is one of ${Number(parts)} parts; join them with llama-gguf-split --merge`)
}

function alignmentOf(file: string, given: unknown = DEFAULT_ALIGNMENT): number {
  const alignment = Number(given)
  const isPower = Number.isInteger(alignment) && alignment > 0 && (alignment & (alignment - 1)) === 0
  if (isPower && alignment <= LARGEST_ALIGNMENT) return alignment
  throw new CheckpointError(
    file,
    `general.alignment is ${quote(String(given))}; powers of two up to ${LARGEST_ALIGNMENT} are allowed`,
  )
}

const align = (offset: number, alignment: number) => Math.ceil(offset / alignment) * alignment

function refuseType(file: string, name: string, type: string | number): CheckpointError {
  const known = Object.values(TYPES).join(', ')
  return new CheckpointError(
    file,
    `tensor ${quote(name)}: type ${type} is not supported; use a file with one of the types ${known}`,
  )
}

function describeTensor(
  file: string,
  { name, shape: sizes, offset: given }: GGUFParseOutput['tensorInfos'][number],
  dtype: ParameterDtype,
  start: number,
  fileBytes: number,
): TensorInfo {
  const fail = (problem: string) => new CheckpointError(file, `tensor ${quote(name)}: ${problem}`)
  if (name.length > LIMITS.nameCharacters) throw fail(`the name is longer than ${LIMITS.nameCharacters} characters`)
  // ggml lists the row length first.
  const shape = sizes.map(Number).reverse()
  const count = shape.reduce((product, axis) => product * axis, 1)
  const bytes = bytesOf(dtype, count)
  if (!Number.isSafeInteger(count)) throw fail(`shape [${shape.join(', ')}] has too many values`)
  const [values] = BLOCKS[dtype]
  if ((shape.at(-1) ?? 1) % values !== 0)
    throw fail(`rows of ${shape.at(-1) ?? 1} values are not whole blocks of ${values}, as ${dtype} requires`)
  const offset = start + Number(given)
  if (!(offset + bytes <= fileBytes))
    throw fail(`ends at byte ${offset + bytes} of a file of ${fileBytes}: the file is truncated or its header is wrong`)
  return { name, dtype, shape, file, offset, bytes }
}

function assertDisjoint(file: string, infos: readonly TensorInfo[]): void {
  let end = 0
  for (const { name, offset, bytes } of infos.toSorted((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (offset < end)
      throw new CheckpointError(file, `tensor ${quote(name)}: its bytes overlap those of another tensor`)
    end = offset + bytes
  }
}
