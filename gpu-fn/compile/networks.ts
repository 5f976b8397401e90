// From an open checkpoint to the graphs of its package, with every tensor accounted for.

import type { Target } from '../manifest.ts'
import { type Manifest, type NetworkName, T5_GRAPHS, type Tier } from '../manifest.ts'
import { type ClipTextConfig, clipText } from '../models/sd35/clip-text.ts'
import {
  deriveClip,
  deriveMMDiT,
  deriveScheduler,
  deriveT5,
  deriveVae,
  shapeOf,
} from '../models/sd35/configurations.ts'
import { conditioning, type MMDiTConfig, type PositionTables, transformer } from '../models/sd35/mmdit.ts'
import { variantOf } from '../models/sd35/sd35.ts'
import { T5_MAX_TOKENS, type T5Config, t5Encoder, t5Parts } from '../models/sd35/t5-encoder.ts'
import { vaeDecoder } from '../models/sd35/vae-decoder.ts'
import { CheckpointError } from './checkpoint/error.ts'
import type { Checkpoint, CheckpointNetwork, Tensor } from './checkpoint/tensor.ts'
import { Graph, GraphError } from './graph/graph.ts'
import { Ledger } from './graph/ledger.ts'
import { precisionOf } from './graph/precision.ts'
import type { Lowering } from './graph/scope.ts'
import { type Build, Scope } from './graph/scope.ts'
import { cpu } from './lower/cpu.ts'
import { cuda } from './lower/cuda.ts'
import { cudaFp8 } from './lower/kernels.ts'
import { separate } from './positions.ts'

export type BuildOptions = {
  readonly tier: Tier
  readonly target: Target
  /** In place of the target's own layers; for tests. */
  readonly lowering?: Lowering | undefined
  readonly variant?: string | undefined
  readonly scaleBlock?: number | undefined
  readonly fuseQkv?: boolean | undefined
  readonly allowMissingEncoders?: boolean | undefined
  /** Makes the denoiser's streams results of its graph, for comparing targets layer by layer. */
  readonly probes?: boolean | undefined
  /** Layers in each graph of T5. */
  readonly t5Layers?: number | undefined
}

export type Model = {
  /** Rows of each encoder's embedding. */
  readonly vocabularies: ReadonlyMap<NetworkName, number>
  readonly graphs: ReadonlyMap<NetworkName, Graph>
  /** Graphs without kernels of our own, over the same weights, for GPUs that cannot run those of `graphs`. */
  readonly withoutKernels: ReadonlyMap<NetworkName, Graph>
  /** The position table where the step graph cannot compute it. */
  readonly positionTable: Tensor | null
  readonly about: Pick<
    Manifest,
    'variant' | 'licence' | 'defaults' | 'scheduler' | 'latent' | 'position' | 'text' | 'transformer_batch'
  >
}

const LOWERINGS: Record<Target, Lowering> = { cpu, cuda, 'cuda-fp8': cudaFp8 }
/** One product is 1 to 3 % faster on the H200 and makes no difference on the CPU: `npm run bench -- qkv --target cuda|cpu`. */
const FUSE_QKV: Record<Target, boolean> = { cpu: false, cuda: true, 'cuda-fp8': true }

/** Builds every graph that the checkpoint has tensors for. Throws CheckpointError for what is missing, left over or contradictory. */
export function buildModel(checkpoint: Checkpoint, paths: readonly string[], options: BuildOptions): Model {
  const tensorsOf = (network: CheckpointNetwork): Map<string, Tensor> => {
    const tensors = checkpoint.networks[network]
    if (!tensors) throw new CheckpointError(paths.join(', '), `has no ${network}`)
    return tensors
  }
  const denoiser = tensorsOf('transformer')
  const derived = deriveMMDiT(denoiser, checkpoint.config.transformer)
  const variant = variantOf(derived, checkpoint, paths, options.variant)
  const table = denoiser.get('pos_embed')!
  const positions = separate(table, derived.positionMax, derived.width)
  const graphs = new Map<NetworkName, Graph>()
  const vocabularies = new Map<NetworkName, number>()
  const text = buildEncoders(checkpoint, options, graphs, derived, vocabularies)
  buildTransformer(denoiser, derived, positions, options, graphs)

  const vae = deriveVae(tensorsOf('vae'), checkpoint.config.vae)
  if (vae.latentChannels !== derived.inChannels) {
    throw new CheckpointError(
      'vae',
      `decodes ${vae.latentChannels} latent channels, but the transformer has ${derived.inChannels}`,
    )
  }
  const decoder = (options: BuildOptions, graphs: Map<NetworkName, Graph>) =>
    build('vae', tensorsOf('vae'), 'vae_decoder', options, graphs, (s) => vaeDecoder(s, vae))
  decoder(options, graphs)
  const withoutKernels = new Map<NetworkName, Graph>()
  if (options.target === 'cuda-fp8') {
    const portable = { ...options, target: 'cuda' } as const
    buildTransformer(denoiser, derived, positions, portable, withoutKernels)
    withoutKernels.delete('conditioning')
    decoder(portable, withoutKernels)
  }

  const { steps, guidanceScale, shift, licence } = variant.defaults
  const downsample = 2 ** (vae.levels - 1)
  const size = downsample * variant.defaults.sampleSize
  return {
    graphs,
    withoutKernels,
    vocabularies,
    positionTable: positions ? null : { ...table, shape: [derived.positionMax ** 2, derived.width] },
    about: {
      variant: variant.name,
      licence,
      defaults: { steps, guidance_scale: guidanceScale, width: size, height: size },
      scheduler: deriveScheduler(checkpoint.config.scheduler, shift),
      latent: { channels: derived.inChannels, downsample, patch_size: derived.patchSize },
      position: {
        max: derived.positionMax,
        source: positions ? 'graph' : 'input',
        width: derived.width,
        ...(!positions && { file: 'position.f32' }),
      },
      text,
      transformer_batch: (options.lowering ?? LOWERINGS[options.target]).batch === 1 ? 1 : null,
    },
  }
}

/** Builds one graph and, when it is the `last` to read these tensors, closes their ledger. */
function build(
  network: CheckpointNetwork,
  tensors: Map<string, Tensor>,
  name: NetworkName,
  { tier, target, lowering = LOWERINGS[target], scaleBlock, fuseQkv, probes = false }: BuildOptions,
  graphs: Map<NetworkName, Graph>,
  model: (s: Scope) => Graph,
  ledger = new Ledger(network, tensors),
  last = true,
): Ledger {
  const graph = new Graph(name)
  const options: Build = {
    graph,
    ledger,
    lowering,
    precision: precisionOf(tier),
    scaleBlock: scaleBlock ?? null,
    fuseQkv: fuseQkv ?? FUSE_QKV[target],
    probes,
  }
  try {
    graphs.set(name, model(new Scope(options)))
  } catch (error) {
    // Shapes that do not go together in the graph are shapes that do not go together in the checkpoint.
    if (error instanceof GraphError) throw new CheckpointError(network, error.message, { cause: error })
    throw error
  }
  if (last) ledger.assertComplete()
  return ledger
}

function buildTransformer(
  tensors: Map<string, Tensor>,
  config: MMDiTConfig,
  positions: PositionTables,
  options: BuildOptions,
  graphs: Map<NetworkName, Graph>,
): void {
  const ledger = new Ledger('transformer', tensors)
  build('transformer', tensors, 'conditioning', options, graphs, (s) => conditioning(s, config), ledger, false)
  build('transformer', tensors, 'transformer', options, graphs, (s) => transformer(s, config, positions), ledger)
}

function buildT5(
  tensors: Map<string, Tensor>,
  config: T5Config,
  options: BuildOptions,
  graphs: Map<NetworkName, Graph>,
): void {
  const parts = t5Parts(config, options.t5Layers)
  if (parts.length > T5_GRAPHS.length)
    throw new CheckpointError('t5', `has ${config.layers} layers; at most 24 are taken`)
  const ledger = new Ledger('t5', tensors)
  for (const [i, part] of parts.entries()) {
    const last = i === parts.length - 1
    build('t5', tensors, T5_GRAPHS[i]!, options, graphs, (s) => t5Encoder(s, config, part), ledger, last)
  }
}

/** Encoders that the checkpoint lacks are absent from the package; the pipeline puts zeros in their place. */
function buildEncoders(
  checkpoint: Checkpoint,
  options: BuildOptions,
  graphs: Map<NetworkName, Graph>,
  config: MMDiTConfig,
  vocabularies: Map<NetworkName, number>,
): Manifest['text'] {
  const { clip_l, clip_g, t5 } = checkpoint.networks
  const clip = (
    name: 'clip_l' | 'clip_g',
    tensors: Map<string, Tensor> | undefined,
  ): (ClipTextConfig & { pooledWidth: number }) | null => {
    if (!tensors) return null
    const derived = deriveClip(name, tensors, checkpoint.config[name])
    vocabularies.set(name, derived.vocabulary)
    build(name, tensors, name, options, graphs, (s) => clipText(s, derived))
    const projection = tensors.has('text_projection.weight')
      ? shapeOf(name, tensors, 'text_projection.weight')[0]!
      : derived.width
    return { ...derived, pooledWidth: projection }
  }
  const absent = (['clip_l', 'clip_g'] as const).filter((name) => !checkpoint.networks[name])
  if (absent.length > 0 && !options.allowMissingEncoders) {
    const problem = `${absent.join(' and ')} missing: --checkpoint may be given once for each file; --allow-missing-encoders compiles without`
    throw new CheckpointError('text encoders', problem)
  }
  const l = clip('clip_l', clip_l)
  const g = clip('clip_g', clip_g)
  const joint = config.contextWidth
  if (l && g) {
    assertWidth('pooled width of clip_l and clip_g', l.pooledWidth + g.pooledWidth, config.pooledWidth, '≠')
    if (l.width + g.width > joint) assertWidth('width of clip_l and clip_g', l.width + g.width, joint, '>')
  }
  if (t5 && options.tier !== 'fp8-lite') {
    const derived = deriveT5(t5, checkpoint.config.t5)
    vocabularies.set('t5', derived.vocabulary)
    assertWidth('width of t5', derived.width, joint, '≠')
    buildT5(t5, derived, options, graphs)
  }
  const about = (config: ClipTextConfig | null) => config && { width: config.width, tokens: config.tokens }
  return {
    clip_l: about(l),
    clip_g: about(g),
    t5: graphs.has('t5') ? { max_tokens: T5_MAX_TOKENS } : null,
    joint_width: joint,
    pooled_width: config.pooledWidth,
  }
}

function assertWidth(what: string, given: number, wanted: number, relation: string): void {
  if (given !== wanted)
    throw new CheckpointError('text encoders', `${what} is ${given} ${relation} ${wanted}, which the transformer takes`)
}
