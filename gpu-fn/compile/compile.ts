// checkpoint ► package: opens, builds, streams the weights, and puts the package in place in one rename.
import { createHash } from 'node:crypto'
import fs from 'node:fs/promises'
import path from 'node:path'
import packageJson from '../../package.json' with { type: 'json' }
import { type Manifest, manifest } from '../manifest.ts'
import { openCheckpoint } from './checkpoint/checkpoint.ts'
import { CheckpointError } from './checkpoint/error.ts'
import type { Graph, Weight } from './graph/graph.ts'
import type { WeightSource } from './graph/weight-source.ts'
import { type BuildOptions, buildModel, type Model } from './networks.ts'
import { place } from './place.ts'
import type { Converted, ScaleErrors } from './write/convert.ts'
import { encodeModel } from './write/onnx.ts'
import { readTokenizers, type Tokenizers } from './write/tokenizers.ts'
import { placeWeights, startConverter, type WriteOptions, writeWeights } from './write/weights.ts'

export type CompileOptions = BuildOptions & {
  /** A diffusers directory, or the files of the single-file layout. */
  readonly checkpoint: readonly string[]
  readonly out: string
  /** The name that a job asks for; the variant's by default. */
  readonly name?: string | undefined
  /** Directory that holds tokenizer, tokenizer_2 and tokenizer_3, where the checkpoint does not bring them. */
  readonly tokenizers?: string | undefined
  readonly onProgress?: (doneBytes: number, totalBytes: number, network: string) => void
}

export type Compiled = {
  readonly manifest: Manifest
  readonly sourceBytes: number
  readonly packageBytes: number
  /** Relative RMS error of the FP8 weights, with `scaleBlock` columns a scale and with a scale a row; null without that option. */
  readonly scaleError: { readonly block: number; readonly row: number } | null
  /** What an operator should know, in sentences. */
  readonly notes: readonly string[]
}

const MODEL_NAME = /^[a-z0-9][a-z0-9-]{0,63}$/

function assertOptions({ name, scaleBlock, tier, target }: CompileOptions): void {
  if (name !== undefined && !MODEL_NAME.test(name)) {
    throw new CheckpointError(
      '--name',
      `${JSON.stringify(name)} is given; 1 to 64 of a-z, 0-9 and "-" are allowed, not "-" at the start`,
    )
  }
  if (target === 'cuda-fp8' && !tier.startsWith('fp8'))
    throw new CheckpointError('--target', `cuda-fp8 multiplies FP8 weights, which tier ${tier} has not; choose cuda`)
  if (scaleBlock === undefined) return
  if (target === 'cuda-fp8')
    throw new CheckpointError('--scale-block', 'has no use for target cuda-fp8, whose products take one scale a row')
  if (!tier.startsWith('fp8'))
    throw new CheckpointError('--scale-block', `has no use in tier ${tier}, which has no FP8 weights`)
  if (target === 'cuda' && scaleBlock % 16 !== 0) {
    throw new CheckpointError('--scale-block', `${scaleBlock} is given; on CUDA it must be a multiple of 16`)
  }
}

/** Compiles a checkpoint into a package at `out`. Throws CheckpointError and leaves nothing behind when it cannot. */
export async function compile(options: CompileOptions): Promise<Compiled> {
  assertOptions(options)
  const checkpoint = await openCheckpoint(options.checkpoint)
  const model = buildModel(checkpoint, options.checkpoint, options)
  const tokenizers = await readTokenizers(new Set(model.graphs.keys()), checkpoint, options.tokenizers)
  const files = weightFiles(model)
  const bytes = files.reduce((n, { weights }) => n + placeWeights(weights).bytes, 0)
  return place(options.out, bytes, (directory) => writePackage(directory, model, files, tokenizers, options))
}

type WeightFile = { readonly name: string; readonly network: string; readonly weights: readonly Weight[] }

function weightFiles(model: Model): WeightFile[] {
  const files: WeightFile[] = [...model.graphs].map(([network, graph]) => ({
    name: `${network}.weights`,
    network,
    weights: graph.weights,
  }))
  if (model.positionTable) {
    const tensor = model.positionTable
    const source: WeightSource = {
      kind: 'cast',
      tensor,
      rows: [0, tensor.shape[0]!],
      storage: 'float32',
      channelsLast: false,
    }
    files.push({
      name: model.about.position.file!,
      network: 'position',
      weights: [{ name: 'pos_embed', dtype: 'float32', shape: tensor.shape, source }],
    })
  }
  return files
}

async function writePackage(
  directory: string,
  model: Model,
  files: readonly WeightFile[],
  tokenizers: Tokenizers,
  options: CompileOptions,
): Promise<Compiled> {
  const digests: Manifest['files'] = {}
  const source = createHash('sha256')
  const total = files.flatMap(({ weights }) => weights).reduce((n, weight) => n + sourceBytes(weight), 0)
  let done = 0
  const errors: ScaleErrors[] = []
  const converter = startConverter()
  try {
    for (const { name, network, weights } of files) {
      const onBlock = ({ sourceBytes, errors: error }: Converted) => {
        done += sourceBytes
        if (error) errors.push(error)
        options.onProgress?.(done, total, network)
      }
      const write: WriteOptions = { converter, source, onBlock }
      digests[name] = await writeWeights(path.join(directory, name), weights, write)
    }
  } finally {
    await converter.close()
  }
  for (const [network, graph] of model.graphs) {
    const { placed } = placeWeights(graph.weights)
    const write = async (name: string, graph: Graph) => {
      const bytes = encodeModel(graph, { location: `${network}.weights`, placed }, packageJson.version)
      digests[name] = await writeFile(directory, name, bytes)
    }
    await write(`${network}.onnx`, graph)
    const other = model.withoutKernels.get(network)
    if (other) await write(withoutKernels(network), other)
  }
  for (const [name, bytes] of tokenizers.files) digests[name] = await writeFile(directory, name, bytes)
  const about: Manifest = manifest.parse({
    format: 1,
    model: options.name ?? model.about.variant,
    ...model.about,
    tier: options.tier,
    target: options.target,
    tool: `octet ${packageJson.version}`,
    source: source.digest('hex'),
    networks: describe(model.graphs, (network) => `${network}.onnx`),
    ...(model.withoutKernels.size > 0 && { without_kernels: describe(model.withoutKernels, withoutKernels) }),
    files: Object.fromEntries(Object.entries(digests).sort(([a], [b]) => (a < b ? -1 : 1))),
  })
  await writeFile(directory, 'manifest.json', Buffer.from(`${JSON.stringify(about, null, 2)}\n`))
  const packageBytes = Object.values(digests).reduce((n, file) => n + file.bytes, 0)
  return {
    manifest: about,
    sourceBytes: total,
    packageBytes,
    scaleError: scaleError(errors),
    notes: notesOn(model, tokenizers, options),
  }
}

function scaleError(errors: readonly ScaleErrors[]): Compiled['scaleError'] {
  if (errors.length === 0) return null
  const rms = (kind: keyof ScaleErrors) => {
    const sum = (key: 'squaredError' | 'squaredWeight') => errors.reduce((n, error) => n + error[kind][key], 0)
    return Math.sqrt(sum('squaredError') / sum('squaredWeight'))
  }
  return { block: rms('block'), row: rms('row') }
}

function notesOn({ about, vocabularies }: Model, tokenizers: Tokenizers, { tier }: CompileOptions): string[] {
  const small = [...vocabularies].filter(([network, rows]) => rows < (tokenizers.vocabularies.get(network) ?? 0))
  return [
    ...(about.text.t5 || tier === 'fp8-lite'
      ? []
      : ['The checkpoint has no T5: zeros stand in its place, as in diffusers.']),
    ...small.map(
      ([network, rows]) =>
        `The tokenizer of ${network} gives ids that its ${rows} embeddings do not have: prompts with them fail.`,
    ),
  ]
}

const withoutKernels = (network: string) => `${network}-without-kernels.onnx`
const describe = (graphs: Model['graphs'], fileOf: (network: string) => string) =>
  Object.fromEntries(
    [...graphs].map(([network, { inputs, outputs }]) => [network, { file: fileOf(network), inputs, outputs }]),
  )

function sourceBytes({ source }: Weight): number {
  const from = source as WeightSource
  if (from.kind === 'bytes' || from.kind === 'scales') return 0
  const bytes = from.tensor.parts.reduce((n, part) => n + part.bytes, 0)
  return (bytes * (from.rows[1] - from.rows[0])) / (from.tensor.shape[0] ?? 1)
}

async function writeFile(directory: string, name: string, data: Uint8Array) {
  const file = path.join(directory, name)
  await fs.mkdir(path.dirname(file), { recursive: true })
  await fs.writeFile(file, data, { flag: 'wx', flush: true })
  return { bytes: data.byteLength, sha256: createHash('sha256').update(data).digest('hex') }
}
