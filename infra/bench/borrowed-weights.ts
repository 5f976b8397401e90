// Weights for performance measurements: every weight of a graph is a range of one file with random numbers, so that a network of any size
// is available in seconds and has its real size on the GPU.
import fs from 'node:fs/promises'
import path from 'node:path'
import { convertFloat32ToFloat16 } from '../../gpu-fn/compile/checkpoint/formats/dtype.ts'
import { encode } from '../../gpu-fn/compile/checkpoint/formats/fp8.ts'
import type { Graph, Weight } from '../../gpu-fn/compile/graph/graph.ts'
import type { BuildOptions } from '../../gpu-fn/compile/graph/model.ts'
import { chooseLowerings } from '../../gpu-fn/compile/lower/lowerings.ts'
import { encodeModel } from '../../gpu-fn/compile/write/onnx.ts'
import { computeTensorBytes } from '../../gpu-fn/dtype.ts'
import type { StoredTensor, Target } from '../../gpu-fn/manifest.ts'
import { buildModel } from '../../gpu-fn/models/sd35/build.ts'
import { openCheckpoint } from '../../gpu-fn/models/sd35/sd35.ts'
import { readSingleFileShapes } from '../checkpoints/published.ts'
import { drawPool } from '../checkpoints/random-weights.ts'
import { encodeSafetensorsHeader } from '../checkpoints/safetensors-header.ts'

const MIB = 2 ** 20
const PAGE = 4096
const FILE = 'random.weights'
/** Bytes of random values for each kind of weight. A weight that does not fit into the rest of its region begins at the region's start. */
const REGIONS = { codes: 256 * MIB, halves: 64 * MIB, scales: 4 * MIB, norms: MIB, biases: 4 * MIB }
type Kind = keyof typeof REGIONS

/** Builds the full-size step graph of a variant from a checkpoint with a header and a sparse body. */
export async function buildStep(
  directory: string,
  variant: 'large' | 'medium',
  blocks: number,
  { target, ...options }: BuildOptions & { target: Target },
) {
  const shapes = await readSingleFileShapes(variant, blocks)
  const { header, dataBytes } = encodeSafetensorsHeader(shapes.map((each) => ({ ...each, dtype: 'BF16' })))
  const file = path.join(directory, `${variant}-${blocks}.safetensors`)
  await fs.writeFile(file, header)
  await fs.truncate(file, header.length + dataBytes)
  const settings = { ...options, variant: 'custom', allowMissingEncoders: true }
  return buildModel(await openCheckpoint([file]), [file], settings, chooseLowerings(target))
}

/** Writes the file of random numbers for `writeGraph`. */
export async function writeNumbers(directory: string): Promise<void> {
  const pool = drawPool(0)
  const file = await fs.open(path.join(directory, FILE), 'w')
  try {
    await repeat(
      file,
      Uint8Array.from(pool, (value) => encode(value * 40)),
      REGIONS.codes,
    )
    const halves = new Uint16Array(pool.length)
    convertFloat32ToFloat16(
      pool.map((value) => value * 0.03),
      halves,
    )
    await repeat(file, new Uint8Array(halves.buffer), REGIONS.halves)
    // With this scale, products over 2432 or 9728 random codes have the magnitude of their input.
    for (const [kind, mean, deviation] of [
      ['scales', 5e-4, 1e-4],
      ['norms', 1, 0.2],
      ['biases', 0, 0.03],
    ] as const) {
      const numbers = pool.slice(0, REGIONS[kind] / 4).map((value) => mean + deviation * value)
      await file.writeFile(new Uint8Array(numbers.buffer))
    }
  } finally {
    await file.close()
  }
}

async function repeat(file: fs.FileHandle, bytes: Uint8Array, total: number): Promise<void> {
  for (let left = total; left > 0; left -= bytes.length) await file.writeFile(bytes.subarray(0, left))
}

/** Writes a graph with weights from the file of random numbers, deterministically. */
export async function writeGraph(directory: string, name: string, graph: Graph): Promise<string> {
  const file = path.join(directory, name)
  await fs.writeFile(file, encodeModel(graph, { location: FILE, layout: borrow(graph.weights) }, '0'))
  return file
}

function borrow(weights: readonly Weight[]): StoredTensor[] {
  const kinds = Object.keys(REGIONS) as Kind[]
  const starts = Object.fromEntries(
    kinds.map((kind, i) => [kind, kinds.slice(0, i).reduce((n, k) => n + REGIONS[k], 0)]),
  )
  const used = new Map<Kind, number>()
  return weights.map(({ name, dtype, shape }) => {
    const bytes = computeTensorBytes(dtype, shape)
    const kind = kindOf(name, dtype)
    const free = used.get(kind) ?? 0
    const at = free + bytes > REGIONS[kind] ? 0 : free
    used.set(kind, Math.ceil((at + bytes) / PAGE) * PAGE)
    return { name, dtype, shape: [...shape], offset: starts[kind]! + at }
  })
}

function kindOf(name: string, dtype: Weight['dtype']): Kind {
  if (dtype === 'float8e4m3fn' || dtype === 'uint8') return 'codes'
  if (dtype === 'float16') return 'halves'
  if (name.endsWith('.scale')) return 'scales'
  return /\.ln_[qk]\./.test(name) ? 'norms' : 'biases'
}
