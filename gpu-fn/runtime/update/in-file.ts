// Updates of weights in a copy of their file, for sessions that read their weights once, when they are opened.
import { open } from 'node:fs/promises'
import { computeTensorBytes } from '../../dtype.ts'
import type { StoredTensor } from '../../manifest.ts'
import type { WeightsFile } from '../device-weights.ts'
import type { Session, Tensor } from '../session.ts'
import { FactorFiles } from './factor-files.ts'
import {
  columnsOf,
  graphOf,
  phasesOf,
  rankScales,
  type Segment,
  segmentsOf,
  type WeightUpdate,
  type WeightUpdates,
} from './weight-update.ts'

/** The content of a weights file with its weights updated, for sessions that read their weights once. */
export async function updateFile(
  { file, tensors }: WeightsFile,
  updates: WeightUpdates,
  openGraph: (file: string) => Promise<Session>,
): Promise<Uint8Array> {
  const content = await readWhole(file, tensors)
  const sessions = new Map<string, Session>()
  await using files = new FactorFiles()
  try {
    for (const update of updates.weights) {
      const graph = graphOf(updates, 'float32', widenHalves(update), false)
      const session = sessions.get(graph) ?? (await openGraph(graph))
      sessions.set(graph, session)
      for (const segment of segmentsOf(update)) await updateSegment({ session, content, files }, update, segment)
    }
  } finally {
    for (const session of sessions.values()) await session.release()
  }
  return content
}

/** Substitutes float32 for float16, which onnxruntime's Node binding does not support. */
function widenHalves({ weight, scales }: WeightUpdate): Pick<WeightUpdate, 'weight' | 'scales'> {
  const widen = (tensor: StoredTensor): StoredTensor =>
    tensor.dtype === 'float16' ? { ...tensor, dtype: 'float32' } : tensor
  return { weight: widen(weight), scales: scales && widen(scales) }
}

async function readWhole(file: string, tensors: readonly StoredTensor[]): Promise<Uint8Array> {
  await using handle = await open(file)
  const { size } = await handle.stat()
  const content = new Uint8Array(size)
  for (let done = 0; done < size; ) {
    const { bytesRead } = await handle.read(content, done, Math.min(size - done, 1 << 30), done)
    if (bytesRead === 0) throw new Error(`${file} ended while it was read`)
    done += bytesRead
  }
  const beyond = tensors.find(({ dtype, shape, offset }) => offset + computeTensorBytes(dtype, shape) > size)
  if (beyond) throw new Error(`${beyond.name} extends beyond the end of ${file}`)
  return content
}

type Target = { readonly session: Session; readonly content: Uint8Array; readonly files: FactorFiles }

async function updateSegment({ session, content, files }: Target, { weight, scales }: WeightUpdate, segment: Segment) {
  const dims = [segment.end - segment.start, segment.columns]
  const factors = await readFactors(files, segment)
  const bytes = rowsOf(content, weight, segment)
  if (scales) {
    const values = floatsOf(rowsOf(content, scales, segment), scales.dtype)
    const floats = Float32Array.from(values)
    const stored = { codes: { data: bytes, dims }, scales: { data: floats, dims: [dims[0]!, columnsOf(scales)] } }
    const phases = phasesOf(segment)
    const random = {
      row_phases: { data: phases.rows, dims: [dims[0]!, 1] },
      column_phases: { data: phases.columns, dims: [1, dims[1]!] },
    }
    const outputs = await session.run({ ...stored, ...factors, ...random })
    bytes.set(outputs.updated!.data as Uint8Array)
    values.set(outputs.updated_scales!.data as Float32Array)
    return
  }
  const values = floatsOf(bytes, weight.dtype)
  const outputs = await session.run({ weight: { data: Float32Array.from(values), dims }, ...factors })
  values.set(outputs.updated!.data as Float32Array)
}

/** The factors of a segment in float32. */
async function readFactors(files: FactorFiles, segment: Segment): Promise<Record<string, Tensor>> {
  const { start, end, columns, rank } = segment
  const [up, down] = [new Float32Array(rank * (end - start)), new Float32Array(rank * columns)]
  const bytesOf = ({ buffer }: Float32Array) => new Uint8Array(buffer)
  await files.read(segment, 'float32', { up: bytesOf(up), down: bytesOf(down) })
  return {
    up: { data: up, dims: [rank, end - start] },
    down: { data: down, dims: [rank, columns] },
    factors: { data: rankScales(segment), dims: [rank, 1] },
  }
}

function rowsOf(content: Uint8Array, { dtype, shape, offset }: StoredTensor, { start, end }: Segment): Uint8Array {
  const row = computeTensorBytes(dtype, shape.slice(1))
  return content.subarray(offset + start * row, offset + end * row)
}

const floatsOf = ({ buffer, byteOffset, byteLength }: Uint8Array, dtype: StoredTensor['dtype']) =>
  dtype === 'float16'
    ? new Float16Array(buffer, byteOffset, byteLength / 2)
    : new Float32Array(buffer, byteOffset, byteLength / 4)
