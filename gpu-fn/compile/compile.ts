// Compiles a checkpoint into a package: opens it, builds the graphs, streams the weights, and renames the result into place.
import packageJson from '../../package.json' with { type: 'json' }
import { escapeText, hasFp8, hasT5, LIMITS, modelName, TIERS } from '../contract.ts'
import { MANIFEST_FORMAT, type Manifest, manifest, type Target, type Tier } from '../manifest.ts'
import { FAMILIES, type FamilyName } from '../models/families.ts'
import { CheckpointError, listNames } from './checkpoint/error.ts'
import { readOptional } from './checkpoint/layout/model-index.ts'
import type { Tensor } from './checkpoint/tensor.ts'
import type { Graph } from './graph/graph.ts'
import type { BuildOptions, ControlGraphs, Model } from './graph/model.ts'
import type { Lowering } from './graph/scope.ts'
import type { WeightSource } from './graph/weight-source.ts'
import { chooseLowerings } from './lower/lowerings.ts'
import { place } from './place.ts'
import { createWeightsFile, PackageWriter, type Progress, type WeightsFile } from './write/package-writer.ts'
import { readTokenizers, readWords, type TokenizerOptions, type Tokenizers, WORDS } from './write/tokenizers.ts'
import { sumLayoutBytes } from './write/weights.ts'

export type CompileOptions = BuildOptions &
  TokenizerOptions & {
    readonly target: Target
    /** Replaces the target's lowering; for tests. */
    readonly lowering?: Lowering | undefined
    /** The network family of the checkpoint; SD3.5 by default. */
    readonly family?: FamilyName | undefined
    /** A diffusers directory, or the files of the single-file layout. */
    readonly checkpoint: readonly string[]
    readonly out: string
    /** Path of a scheduler_config.json, which replaces the checkpoint's. */
    readonly scheduler?: string | undefined
    /** Model name in requests; by default that of the variant. */
    readonly name?: string | undefined
    readonly onProgress?: Progress
    /** Called with each remark about the checkpoint once it is open. */
    readonly onNote?: (note: string) => void
  }

export type CompiledPackage = {
  readonly manifest: Manifest
  readonly sourceBytes: number
  readonly packageBytes: number
  /** Remarks for the operator, in sentences. */
  readonly notes: readonly string[]
}

/** Compiles a checkpoint into a package at `out`. Throws CheckpointError and then leaves `out` as it was. */
export async function compile(options: CompileOptions): Promise<CompiledPackage> {
  assertOptions(options)
  const { openCheckpoint, buildModel } = FAMILIES[options.family ?? 'sd35']
  const checkpoint = await openCheckpoint(options.checkpoint, options)
  for (const note of checkpoint.notes) options.onNote?.(escapeText(note))
  if (options.scheduler !== undefined) checkpoint.config.scheduler = await readScheduler(options.scheduler)
  const model = buildModel(checkpoint, options.checkpoint, options, chooseLowerings(options.target, options.lowering))
  const { encoders } = model.manifest.text
  const tokenizers = await readTokenizers(encoders, model.vocabularies, checkpoint, options)
  const files = weightsFilesOf(model)
  const bytes = [...files.values()].reduce((sum, { layout }) => sum + sumLayoutBytes(layout), 0)
  return place(options.out, bytes, (directory) => writePackage(directory, model, files, tokenizers, options))
}

async function readScheduler(file: string): Promise<Record<string, unknown>> {
  const config = await readOptional(file)
  if (!config) throw new CheckpointError(file, 'does not exist; --scheduler is the path of a scheduler_config.json')
  return config
}

/** Throws CheckpointError if the options contradict each other, independently of the checkpoint. */
export function assertOptions({
  name,
  tier,
  target,
  tokenizers,
  hub,
  steps,
  guidanceScale,
  adalnBits,
  t5Bits,
}: Pick<
  CompileOptions,
  'name' | 'tier' | 'target' | 'tokenizers' | 'hub' | 'steps' | 'guidanceScale' | 'adalnBits' | 't5Bits'
>): void {
  if (name !== undefined && !modelName.safeParse(name).success) {
    throw new CheckpointError(
      '--name',
      `${JSON.stringify(name)} is given; 1 to 64 of a-z, 0-9 and "-" are allowed, not "-" at the start`,
    )
  }
  assertTarget(tier, target)
  if (adalnBits !== undefined && !hasFp8(tier))
    throw new CheckpointError('--adaln-bits', `requires tier ${listTiers(hasFp8)}; tier ${tier} has no FP8 weights`)
  if (t5Bits !== undefined && !(hasFp8(tier) && hasT5(tier)))
    throw new CheckpointError(
      '--t5-bits',
      `requires tier ${listTiers((each) => hasFp8(each) && hasT5(each))}; tier ${tier} has ${hasT5(tier) ? 'no FP8 weights' : 'no T5'}`,
    )
  assertWithin('--steps', steps, LIMITS.steps)
  if (steps !== undefined && !Number.isInteger(steps))
    throw new CheckpointError('--steps', `${steps} is not an integer`)
  assertWithin('--guidance-scale', guidanceScale, LIMITS.guidanceScale)
  if (hub !== undefined && tokenizers !== 'hub')
    throw new CheckpointError('--hub', 'is the server of `--tokenizers hub`; give both options or neither')
}

/** Throws CheckpointError for target cuda-fp8 with a tier without FP8 weights. */
export function assertTarget(tier: Tier, target: Target): void {
  if (target === 'cuda-fp8' && !hasFp8(tier))
    throw new CheckpointError('--target', `cuda-fp8 requires FP8 weights, and tier ${tier} has none; choose cuda`)
}

const listTiers = (isAllowed: (tier: Tier) => boolean) => TIERS.filter(isAllowed).join(' or ')

function assertWithin(option: string, value: number | undefined, { min, max }: { min: number; max: number }): void {
  if (value === undefined || (value >= min && value <= max)) return
  throw new CheckpointError(option, `${value} is given; a number from ${min} to ${max} is allowed`)
}

const POSITION = 'position'

/** The weights files by network, and that of the position table. */
function weightsFilesOf({ graphs, positionTable, manifest: { position } }: Model): Map<string, WeightsFile> {
  const files = new Map(
    [...graphs].map(([network, { weights }]) => [network, createWeightsFile(`${network}.weights`, network, weights)]),
  )
  if (!positionTable) return files
  const { shape } = positionTable
  const source = { kind: 'cast', tensor: positionTable, rows: [0, shape[0]!], storage: 'float32', channelsLast: false }
  const weight = { name: 'pos_embed', dtype: 'float32', shape, source: source as WeightSource } as const
  return files.set(POSITION, createWeightsFile(position.file!, POSITION, [weight]))
}

async function writePackage(
  directory: string,
  model: Model,
  files: ReadonlyMap<string, WeightsFile>,
  tokenizers: Tokenizers,
  options: CompileOptions,
): Promise<CompiledPackage> {
  const writer = new PackageWriter(directory)
  const { source, sourceBytes, blank } = await writer.writeWeights([...files.values()], options.onProgress)
  const networks: Manifest['networks'] = {}
  for (const [network, graph] of model.graphs)
    networks[network] = await writer.writeGraph(`${network}.onnx`, graph, files.get(network)!)
  const control = await writeControl(writer, model.control, files.get('transformer')!)
  const withoutKernels = await writeWithoutKernels(writer, model, files)
  for (const [name, bytes] of tokenizers.files) await writer.write(name, bytes)
  const words = await readWords(options.checkpoint)
  if (words) await writer.write(WORDS, words)
  const about: Manifest = manifest.parse({
    format: MANIFEST_FORMAT,
    model: options.name ?? model.manifest.variant,
    ...model.manifest,
    tier: options.tier,
    target: options.target,
    tool: `octet ${packageJson.version}`,
    source,
    networks,
    control,
    ...(withoutKernels && { without_kernels: withoutKernels }),
    weights: Object.fromEntries([...model.graphs.keys()].map((network) => layoutOf(files.get(network)!))),
    files: Object.fromEntries(Object.entries(writer.files).sort(([a], [b]) => (a < b ? -1 : 1))),
  })
  const packageBytes = Object.values(about.files).reduce((sum, file) => sum + file.bytes, 0)
  await writer.write('manifest.json', Buffer.from(`${JSON.stringify(about)}\n`))
  const notes = [...model.notes, ...tokenizers.notes, ...describeBlank(blank)].map(escapeText)
  return { manifest: about, sourceBytes, packageBytes, notes }
}

/**
 * Notes tensors of zeros. They indicate an interrupted download by a program that reserves the file's size first, but can also result from
 * training.
 */
function describeBlank(tensors: ReadonlySet<Tensor>): string[] {
  if (tensors.size === 0) return []
  const files = new Set([...tensors].flatMap(({ parts }) => parts.map(({ file }) => file)))
  const names = listNames([...tensors].map(({ name }) => name))
  return [
    `Warning: ${names} have blocks of zeros. Compare the SHA-256 of ${[...files].join(', ')} with the published one: the download may not have finished.`,
  ]
}

const layoutOf = ({ name, layout }: WeightsFile) => [name, layout] as const

async function writeControl(
  writer: PackageWriter,
  { withoutKernels, ...graphs }: Model['control'],
  weights: WeightsFile,
): Promise<NonNullable<Manifest['control']>> {
  const write = async ({ embedding, transformer }: ControlGraphs, suffix = '') => ({
    embedding: await writer.writeGraph(`control-embedding${suffix}.onnx`, embedding, weights),
    transformer: await writer.writeGraph(`control-transformer${suffix}.onnx`, transformer, weights),
  })
  const own = await write(graphs)
  return withoutKernels ? { ...own, without_kernels: await write(withoutKernels, '-without-kernels') } : own
}

async function writeWithoutKernels(
  writer: PackageWriter,
  { graphs, withoutKernels }: Model,
  files: ReadonlyMap<string, WeightsFile>,
): Promise<Manifest['without_kernels']> {
  if (!withoutKernels) return undefined
  const write = (network: string, graph: Graph) =>
    writer.writeWithoutKernels(network, graph, graphs.get(network)!, files.get(network)!)
  const { transformer, vae_decoder, vae_encoder } = withoutKernels
  return {
    transformer: await write('transformer', transformer),
    vae_decoder: await write('vae_decoder', vae_decoder),
    ...(vae_encoder && { vae_encoder: await write('vae_encoder', vae_encoder) }),
  }
}
