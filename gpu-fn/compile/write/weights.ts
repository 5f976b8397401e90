// Streams weights from a checkpoint into a package's file: worker threads convert blocks, which are written in order.
import { createHash, type Hash } from 'node:crypto'
import fs from 'node:fs/promises'
import os from 'node:os'
import { Piscina } from 'piscina'
import { computeTensorBytes, countElements } from '../../dtype.ts'
import type { StoredTensor } from '../../manifest.ts'
import { CheckpointError } from '../checkpoint/error.ts'
import type { Tensor } from '../checkpoint/tensor.ts'
import type { Weight } from '../graph/graph.ts'
import type { Storage } from '../graph/precision.ts'
import type { WeightSource } from '../graph/weight-source.ts'
import type { Block, ConvertedBlock } from './convert.ts'
import type { Outcome } from './convert-worker.ts'

/** Weights start at multiples of a page, so that they can be mapped, read directly and uploaded without a copy. */
const ALIGNMENT = 4096
/** Values per block: all blocks in flight stay far below the memory limit. */
const BLOCK_VALUES = 2 ** 21
/** The layout of a weights file: its tensors in the order of `weights`. */
export function layOut(weights: readonly Weight[]): StoredTensor[] {
  let end = 0
  return (weights as readonly Weight<WeightSource>[]).map(({ name, dtype, shape, source }) => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT
    end = offset + computeTensorBytes(dtype, shape)
    return { name, dtype, shape: [...shape], offset, ...bitsOf(source) }
  })
}

const bitsOf = (source: WeightSource): Pick<StoredTensor, 'bits'> =>
  source.kind === 'integers' ? { bits: source.bits } : source.kind === 'packed' ? { bits: 4 } : {}

/** Size of a file with this layout. */
export function sumLayoutBytes(layout: readonly StoredTensor[]): number {
  const last = layout.at(-1)
  return last ? last.offset + computeTensorBytes(last.dtype, last.shape) : 0
}

type Converter = {
  readonly run: (block: Block) => Promise<ConvertedBlock>
  readonly threads: number
  readonly close: () => Promise<void>
}

/** Starts the threads that convert blocks; each holds a few blocks in memory. */
export function startConverter(): Converter {
  const threads = Math.max(1, Math.min(os.availableParallelism(), 8))
  const filename = new URL('./convert-worker.ts', import.meta.url).href
  const pool = new Piscina({ filename, minThreads: threads, maxThreads: threads, execArgv: [] })
  const run = async (block: Block) => {
    const outcome = (await pool.run(block)) as Outcome
    if (outcome.converted) return outcome.converted
    throw new CheckpointError(outcome.refused.file, outcome.refused.problem)
  }
  return { run, threads, close: () => pool.destroy() }
}

export type WriteOptions = {
  readonly converter: Converter
  /** Receives the digest of every block, in order. */
  readonly source: Hash
  readonly onBlock: (converted: ConvertedBlock, tensor: Tensor) => void
}

/**
 * Writes the weights according to their layout. Memory use does not grow with the model, because the number of blocks in flight depends on
 * the number of threads alone.
 */
export async function writeWeights(
  file: string,
  weights: readonly Weight[],
  layout: readonly StoredTensor[],
  options: WriteOptions,
): Promise<{ bytes: number; sha256: string }> {
  const output = createHash('sha256')
  const handle = await fs.open(file, 'wx')
  let position = 0
  const append = async (data: Uint8Array) => {
    output.update(data)
    await handle.writeFile(data)
    position += data.byteLength
  }
  const inFlight = convertBlocks(weights, options.converter)
  const scales: Scales = { ofRows: [], ofGroups: [] }
  try {
    for (const [i, { source }] of (weights as readonly Weight<WeightSource>[]).entries()) {
      await append(new Uint8Array(layout[i]!.offset - position))
      for await (const content of contentOf(source, inFlight, scales, options)) await append(content)
    }
    await handle.sync()
  } finally {
    await inFlight.return(undefined)
    await handle.close()
  }
  return { bytes: position, sha256: output.digest('hex') }
}

/** Scales computed but not yet written. */
type Scales = { readonly ofRows: Float32Array[]; readonly ofGroups: Uint8Array[] }

/** Yields the bytes of one weight in blocks. Scales are computed with their codes and kept for the scale weights that follow. */
async function* contentOf(
  source: WeightSource,
  inFlight: AsyncGenerator<ConvertedBlock, undefined>,
  scales: Scales,
  options: WriteOptions,
): AsyncGenerator<Uint8Array> {
  if (source.kind === 'scales') {
    for (const part of scales.ofRows.splice(0)) {
      const { buffer, byteOffset, byteLength } = source.storage === 'float16' ? Float16Array.from(part) : part
      yield new Uint8Array(buffer, byteOffset, byteLength)
    }
  } else if (source.kind === 'group-scales') {
    yield* scales.ofGroups.splice(0)
  } else if (source.kind === 'bytes') {
    options.source.update(source.data)
    yield source.data
  } else {
    options.source.update(describe(source))
    for (let left = blockCount(source); left > 0; left--) {
      const converted = (await inFlight.next()).value!
      options.source.update(converted.digest)
      if (converted.scales) scales.ofRows.push(converted.scales)
      if (converted.groupScales) scales.ofGroups.push(converted.groupScales)
      options.onBlock(converted, source.tensor)
      yield converted.output
    }
  }
}

/** The parameters of a weight's conversion, as text for its digest. */
function describe({ tensor: { name, shape, parts }, rows }: ConvertedSource): string {
  const dtypes = new Set(parts.map(({ dtype }) => dtype))
  const scales = parts.every(({ scale }) => scale === 1) ? '' : ` × ${parts.map(({ scale }) => scale).join(';')}`
  return `${name} ${[...dtypes].join('+')} ${shape} ${rows}${scales}\n`
}

/** Converted blocks in order, while the next ones are being converted. */
async function* convertBlocks(
  weights: readonly Weight[],
  { run, threads }: Converter,
): AsyncGenerator<ConvertedBlock, undefined> {
  const queue: Promise<ConvertedBlock>[] = []
  for (const block of blocksOf(weights as readonly Weight<WeightSource>[])) {
    const promise = run(block)
    promise.catch(() => {}) // thrown again when it is awaited, or irrelevant after an earlier failure
    queue.push(promise)
    if (queue.length >= threads * 3) yield await queue.shift()!
  }
  while (queue.length > 0) yield await queue.shift()!
}

type ConvertedSource = Extract<WeightSource, { kind: 'cast' | 'codes' | 'packed' | 'integers' }>

function matrixOf({ tensor, rows }: ConvertedSource): { count: number; columns: number; step: number } {
  const columns = countElements(tensor.shape.slice(1))
  return { count: rows[1] - rows[0], columns, step: Math.max(1, Math.floor(BLOCK_VALUES / columns)) }
}

function blockCount(source: ConvertedSource): number {
  const { count, step } = matrixOf(source)
  return Math.ceil(count / step)
}

function* blocksOf(weights: readonly Weight<WeightSource>[]): Generator<Block> {
  for (const { source } of weights) {
    if (!('tensor' in source)) continue
    const { columns, step } = matrixOf(source)
    const [first, end] = source.rows
    for (let start = first; start < end; start += step) {
      const common = { tensor: source.tensor, start, end: Math.min(start + step, end), columns }
      const { storage, channelsLast } =
        source.kind === 'cast' ? source : { storage: storageOf(source), channelsLast: false }
      yield { ...common, storage, channelsLast }
    }
  }
}

function storageOf(source: Exclude<ConvertedSource, { kind: 'cast' }>): Storage {
  if (source.kind === 'integers') return source.bits === 8 ? 'int8' : 'int4'
  return source.kind === 'packed' ? 'fp8-int4' : 'float8e4m3fn'
}
