// From an open checkpoint to the graphs of its package; every tensor is read exactly once.
import { CheckpointError } from '../../compile/checkpoint/error.ts'
import type { Checkpoint, Tensor } from '../../compile/checkpoint/tensor.ts'
import { buildGraph, type GraphSettings } from '../../compile/graph/build-graph.ts'
import type { Graph } from '../../compile/graph/graph.ts'
import { Ledger } from '../../compile/graph/ledger.ts'
import type { BuildOptions, ControlGraphs, Lowerings, Model } from '../../compile/graph/model.ts'
import type { Scope } from '../../compile/graph/scope.ts'
import { deriveMMDiT, deriveScheduler, deriveVae } from './configurations.ts'
import type { Sd35Network } from './names/naming.ts'
import {
  conditioning,
  embedding,
  gatesOf,
  type MMDiTConfig,
  type PositionTables,
  transformer,
} from './networks/mmdit.ts'
import type { VaeConfig } from './networks/vae-blocks.ts'
import { vaeDecoder } from './networks/vae-decoder.ts'
import { vaeEncoder } from './networks/vae-encoder.ts'
import { splitPositionTable } from './positions.ts'
import { createSd35Precision } from './precision.ts'
import { PREVIEW_FACTORS } from './preview-factors.ts'
import { findSensitiveLayers } from './sensitive-layers.ts'
import { buildTextEncoders } from './text-encoders.ts'
import { type Choice, type Defaults, variantOf } from './variants.ts'

type Json = Readonly<Record<string, unknown>>
type Tensors = ReadonlyMap<string, Tensor>
type Denoiser = { readonly tensors: Tensors; readonly config: MMDiTConfig; readonly positions: PositionTables }
type Autoencoder = { readonly tensors: Tensors; readonly config: VaeConfig }

/** Builds the graphs of all networks in the checkpoint. Throws CheckpointError for tensors that are missing, unexpected or contradictory. */
export function buildModel(
  checkpoint: Checkpoint,
  paths: readonly string[],
  options: BuildOptions,
  { lowering, withoutKernels }: Lowerings,
): Model {
  const tensors = tensorsOf(checkpoint, 'transformer', paths)
  const config = deriveMMDiT(tensors, checkpoint.config.transformer)
  const { sources, config: configs } = checkpoint
  const choice = withDefaults(variantOf(config, sources.transformer!, configs.transformer, options.variant), options)
  const precision = createSd35Precision(options.tier, {
    ...options,
    sensitive: findSensitiveLayers(choice.name, config),
  })
  const settings = { lowering, precision, probes: options.probes ?? false }
  const table = tensors.get('pos_embed')!
  const denoiser = { tensors, config, positions: splitPositionTable(table, config.positionMax, config.width) }
  const text = buildTextEncoders(checkpoint, config, options, settings)
  const graphs = new Map([...text.graphs, ...Object.entries(buildDenoiser(denoiser, settings))])
  const vae = openAutoencoder(checkpoint, config, paths)
  for (const [network, graph] of Object.entries(buildAutoencoder(vae, settings))) graphs.set(network, graph)
  return {
    graphs,
    withoutKernels: withoutKernels && buildWithoutKernels(denoiser, vae, { ...settings, lowering: withoutKernels }),
    control: {
      ...buildControlGraphs(denoiser, settings),
      withoutKernels: withoutKernels && buildControlGraphs(denoiser, { ...settings, lowering: withoutKernels }),
    },
    vocabularies: text.vocabularies,
    positionTable: denoiser.positions ? null : { ...table, shape: [config.positionMax ** 2, config.width] },
    manifest: {
      variant: choice.name,
      ...describeDefaults(choice.defaults, vae.config),
      scheduler: deriveScheduler(configs.scheduler, choice.defaults.shift),
      ...describeDenoiser(denoiser, vae.config),
      blocks: {
        gates: gatesOf(config),
        ...(choice.defaults.skipLayers && { skipped: [...choice.defaults.skipLayers] }),
      },
      text: text.manifest,
      transformer_batch: lowering.batch === 1 ? 1 : null,
    },
    notes: [...describeChoice(choice, configs.scheduler), ...text.notes, ...describeEncoder(vae.config)],
  }
}

/** The choice with the default steps and guidance scale of the options. */
function withDefaults(choice: Choice, { steps, guidanceScale }: BuildOptions): Choice {
  const given = { ...(steps !== undefined && { steps }), ...(guidanceScale !== undefined && { guidanceScale }) }
  return { ...choice, defaults: { ...choice.defaults, ...given } }
}

function tensorsOf(checkpoint: Checkpoint, network: Sd35Network, paths: readonly string[]): Tensors {
  const tensors = checkpoint.networks[network]
  if (!tensors) {
    const reason = checkpoint.absent.get(network)
    throw new CheckpointError(paths.join(', '), `has no ${network}${reason ? `. ${reason}` : ''}`)
  }
  return tensors
}

function openAutoencoder(checkpoint: Checkpoint, { inChannels }: MMDiTConfig, paths: readonly string[]): Autoencoder {
  const tensors = tensorsOf(checkpoint, 'vae', paths)
  const config = deriveVae(tensors, checkpoint.config.vae)
  if (config.latentChannels === inChannels) return { tensors, config }
  throw new CheckpointError(
    'vae',
    `decodes ${config.latentChannels} latent channels, but the transformer has ${inChannels}`,
  )
}

function buildDenoiser({ tensors, config, positions }: Denoiser, settings: GraphSettings) {
  const ledger = new Ledger('transformer', tensors)
  const graphs = {
    conditioning: buildGraph('conditioning', ledger, settings, (s) => conditioning(s, config)),
    transformer: buildGraph('transformer', ledger, settings, (s) => transformer(s, config, positions)),
  }
  ledger.assertComplete()
  return graphs
}

/** Graphs for ControlNets, over tensors that `buildDenoiser` has checked. */
function buildControlGraphs({ tensors, config, positions }: Denoiser, settings: GraphSettings): ControlGraphs {
  const build = (name: string, define: (s: Scope) => Graph) =>
    buildGraph(name, new Ledger('transformer', tensors), { ...settings, probes: false }, define)
  return {
    embedding: build('embedding', (s) => embedding(s, config, positions)),
    transformer: build('transformer', (s) => transformer(s, config, positions, true)),
  }
}

/** The encoder is the last network, because only jobs with an input image run it. */
function buildAutoencoder({ tensors, config }: Autoencoder, settings: GraphSettings) {
  const ledger = new Ledger('vae', tensors)
  const vae_decoder = buildGraph('vae_decoder', ledger, settings, (s) => vaeDecoder(s, config))
  const graphs: { vae_decoder: Graph; vae_encoder?: Graph } = { vae_decoder }
  if (config.encoderBlocksPerLevel !== null)
    graphs.vae_encoder = buildGraph('vae_encoder', ledger, settings, (s) => vaeEncoder(s, config))
  ledger.assertComplete()
  return graphs
}

/** The graphs for GPUs that do not support the kernels. */
function buildWithoutKernels(denoiser: Denoiser, vae: Autoencoder, settings: GraphSettings): Model['withoutKernels'] {
  const { transformer } = buildDenoiser(denoiser, settings)
  return { transformer, ...buildAutoencoder(vae, settings) }
}

const describeEncoder = ({ encoderBlocksPerLevel }: VaeConfig) =>
  encoderBlocksPerLevel === null
    ? ['The VAE has no encoder: the package generates images from text only, and refuses an input image.']
    : []

/** The variant and the shift, with the reason for each. */
function describeChoice({ name, reason, defaults }: Choice, scheduler: Json | undefined): string[] {
  const { steps, guidanceScale, shift } = defaults
  const variant = `Variant ${name} (${steps} steps, guidance ${guidanceScale}): ${reason}.`
  if (!scheduler) return [variant, `No scheduler_config.json: shift ${shift}, that of ${name}.`]
  return scheduler.shift === undefined
    ? [variant, 'scheduler_config.json has no shift: 1, the default of diffusers.']
    : [variant]
}

const downsampleOf = ({ levels }: VaeConfig) => 2 ** (levels - 1)

function describeDefaults({ steps, guidanceScale, sampleSize, license }: Defaults, vae: VaeConfig) {
  const size = downsampleOf(vae) * sampleSize
  return { license, defaults: { steps, guidance_scale: guidanceScale, width: size, height: size } }
}

function describeDenoiser(
  { config, positions }: Denoiser,
  vae: VaeConfig,
): Pick<Model['manifest'], 'latent' | 'position'> {
  const position = { max: config.positionMax, width: config.width }
  return {
    latent: {
      ...{ channels: config.inChannels, downsample: downsampleOf(vae), patch_size: config.patchSize },
      ...(config.inChannels === PREVIEW_FACTORS.length && { preview: PREVIEW_FACTORS }),
    },
    position: positions ? position : { ...position, file: 'position.f32' },
  }
}
