// Updates of weights in a copy of their file, for sessions that read their weights once, when they are opened.
import { open } from 'node:fs/promises'
import { tensorBytes } from '../../dtype.ts'
import type { StoredTensor } from '../../manifest.ts'
import type { WeightsFile } from '../device-weights.ts'
import type { Session } from '../session.ts'
import {
  columnsOf,
  FactorFiles,
  graphOf,
  phaseInputs,
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
      // The Node binding has no float16.
      const graph = update.weight.dtype === 'float16' ? updates.graphs.float32 : graphOf(updates, update.weight, false)
      const session = sessions.get(graph) ?? (await openGraph(graph))
      sessions.set(graph, session)
      for await (const segment of segmentsOf(update, files)) await updateSegment(session, content, update, segment)
    }
  } finally {
    for (const session of sessions.values()) await session.release()
  }
  return content
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
  const beyond = tensors.find(({ dtype, shape, offset }) => offset + tensorBytes(dtype, shape) > size)
  if (beyond) throw new Error(`${beyond.name} extends beyond the end of ${file}`)
  return content
}

async function updateSegment(
  session: Session,
  content: Uint8Array,
  { weight, scales }: WeightUpdate,
  segment: Segment,
) {
  const columns = columnsOf(weight)
  const dims = [segment.end - segment.start, columns]
  const bytes = rowsOf(content, weight, segment)
  if (scales) {
    const floats = asFloats(rowsOf(content, scales, segment))
    const stored = { codes: { data: bytes, dims }, scales: { data: floats, dims: [dims[0]!, 1] } }
    const outputs = await session.run({ ...stored, ...segment.inputs, ...phaseInputs(segment, columns) })
    bytes.set(outputs.updated!.data as Uint8Array)
    floats.set(outputs.updated_scales!.data as Float32Array)
    return
  }
  const values = weight.dtype === 'float16' ? asHalves(bytes) : asFloats(bytes)
  const outputs = await session.run({ weight: { data: Float32Array.from(values), dims }, ...segment.inputs })
  values.set(outputs.updated!.data as Float32Array)
}

function rowsOf(content: Uint8Array, { dtype, shape, offset }: StoredTensor, { start, end }: Segment): Uint8Array {
  const row = tensorBytes(dtype, shape.slice(1))
  return content.subarray(offset + start * row, offset + end * row)
}

const asFloats = ({ buffer, byteOffset, byteLength }: Uint8Array) =>
  new Float32Array(buffer, byteOffset, byteLength / 4)
const asHalves = ({ buffer, byteOffset, byteLength }: Uint8Array) =>
  new Float16Array(buffer, byteOffset, byteLength / 2)
