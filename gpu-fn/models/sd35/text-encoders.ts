// SD3.5's text encoders: CLIP-L, CLIP-G and T5, and how the pipeline joins their outputs.
// diffusers pipeline_stable_diffusion_3.py `encode_prompt`; ComfyUI comfy/text_encoders/sd3_clip.py for absent encoders.
import { CheckpointError } from '../../compile/checkpoint/error.ts'
import type { Checkpoint } from '../../compile/checkpoint/tensor.ts'
import { buildGraph, type GraphSettings } from '../../compile/graph/build-graph.ts'
import type { Graph } from '../../compile/graph/graph.ts'
import { Ledger } from '../../compile/graph/ledger.ts'
import type { BuildOptions } from '../../compile/graph/model.ts'
import { hasT5 } from '../../contract.ts'
import type { Manifest, TextEncoderManifest } from '../../manifest.ts'
import { clipText } from './clip-text.ts'
import { deriveClip, deriveT5, shapeOf } from './configurations.ts'
import type { MMDiTConfig } from './mmdit.ts'
import { TOKENIZERS } from './naming.ts'
import { T5_MAX_TOKENS, t5Encoder, t5Parts } from './t5-encoder.ts'

type ClipName = 'clip_l' | 'clip_g'
/** Graphs of one encoder, and the rows of its embedding. */
type Built = { readonly graphs: readonly (readonly [name: string, graph: Graph])[]; readonly vocabulary: number }
type Clip = { readonly width: number; readonly pooledWidth: number; readonly tokens: number }

/** The encoders of a package; null for an absent one. */
export type Encoders = {
  readonly clip_l: Clip | null
  readonly clip_g: Clip | null
  readonly t5: { readonly graphs: readonly string[] } | null
}

const CLIPS: readonly ClipName[] = ['clip_l', 'clip_g']
const TITLES = { clip_l: 'CLIP-L', clip_g: 'CLIP-G', t5: 'T5' } as const
const CLIP_TOKENS = 77
/** diffusers' `max_sequence_length`: the tokens of T5, and the rows of zeros in place of an absent T5. */
const DIFFUSERS_T5_TOKENS = 256
/** Graphs of T5: 24 layers in the published encoder. */
const MAX_T5_GRAPHS = 4

/** Builds the encoders that the checkpoint has. Throws CheckpointError, also for an absent CLIP without `allowMissingEncoders`. */
export function buildTextEncoders(
  checkpoint: Checkpoint,
  config: MMDiTConfig,
  options: BuildOptions,
  settings: GraphSettings,
) {
  const missing = CLIPS.filter((name) => !checkpoint.networks[name])
  if (missing.length > 0 && !options.allowMissingEncoders) {
    const problem = `${missing.join(' and ')} missing: --checkpoint may be given once for each file; --allow-missing-encoders compiles without`
    throw new CheckpointError('text encoders', problem)
  }
  const clip_l = buildClip('clip_l', checkpoint, settings)
  const clip_g = buildClip('clip_g', checkpoint, settings)
  assertClipWidths(clip_l, clip_g, config)
  const t5 = hasT5(options.tier) ? buildT5(checkpoint, config, options, settings) : null
  const built = [['clip_l', clip_l] as const, ['clip_g', clip_g] as const, ['t5', t5] as const]
  return {
    graphs: built.flatMap(([, encoder]) => encoder?.graphs ?? []),
    vocabularies: new Map(built.flatMap(([name, encoder]) => (encoder ? [[name, encoder.vocabulary] as const] : []))),
    manifest: describeText({ clip_l, clip_g, t5: t5 && { graphs: t5.graphs.map(([name]) => name) } }, config),
    notes: t5 || !hasT5(options.tier) ? [] : ['The checkpoint has no T5: zeros take its place, as in diffusers.'],
  }
}

function buildClip(name: ClipName, checkpoint: Checkpoint, settings: GraphSettings): (Built & Clip) | null {
  const tensors = checkpoint.networks[name]
  if (!tensors) return null
  const config = deriveClip(name, tensors, checkpoint.config[name])
  const ledger = new Ledger(name, tensors)
  const graph = buildGraph(name, ledger, settings, (s) => clipText(s, config))
  ledger.assertComplete()
  const projection = 'text_projection.weight'
  const pooledWidth = tensors.has(projection) ? shapeOf(name, tensors, projection)[0]! : config.width
  return { ...config, pooledWidth, graphs: [[name, graph]] }
}

function buildT5(
  checkpoint: Checkpoint,
  { contextWidth }: MMDiTConfig,
  { encoderLayersPerGraph }: BuildOptions,
  settings: GraphSettings,
): Built | null {
  const tensors = checkpoint.networks.t5
  if (!tensors) return null
  const config = deriveT5(tensors, checkpoint.config.t5)
  assertWidth('width of t5', config.width, contextWidth, '≠')
  const parts = t5Parts(config, encoderLayersPerGraph)
  if (parts.length > MAX_T5_GRAPHS)
    throw new CheckpointError('t5', `has ${config.layers} layers; at most 24 are supported`)
  const ledger = new Ledger('t5', tensors)
  const graphs = parts.map((part, i) => {
    const name = i === 0 ? 't5' : `t5_${i + 1}`
    return [name, buildGraph(name, ledger, settings, (s) => t5Encoder(s, config, part))] as const
  })
  ledger.assertComplete()
  return { graphs, vocabulary: config.vocabulary }
}

function assertClipWidths(l: Clip | null, g: Clip | null, { contextWidth, pooledWidth }: MMDiTConfig): void {
  if (!l || !g) return
  assertWidth('pooled width of clip_l and clip_g', l.pooledWidth + g.pooledWidth, pooledWidth, '≠')
  if (l.width + g.width > contextWidth) assertWidth('width of clip_l and clip_g', l.width + g.width, contextWidth, '>')
}

function assertWidth(what: string, given: number, expected: number, relation: string): void {
  if (given !== expected)
    throw new CheckpointError(
      'text encoders',
      `${what} is ${given} ${relation} ${expected}, which the transformer takes`,
    )
}

/**
 * CLIP-L and CLIP-G side by side, T5 below them, rows padded with zeros to the transformer's width. diffusers runs T5 on 256 tokens;
 * the reference pads to CLIP's 77 tokens and allows as many as the model takes.
 */
export function describeText(
  { clip_l, clip_g, t5 }: Encoders,
  { contextWidth, pooledWidth }: Pick<MMDiTConfig, 'contextWidth' | 'pooledWidth'>,
): Manifest['text'] {
  // CLIP-L is as wide as its pooled vector, so that CLIP-G keeps its columns if CLIP-L is absent.
  const columnG = clip_l?.width ?? pooledWidth - (clip_g?.pooledWidth ?? 0)
  const encoders = [
    clip_l && describeClip('clip_l', clip_l, 0, 0),
    clip_g && describeClip('clip_g', clip_g, columnG, pooledWidth - clip_g.pooledWidth),
    t5 && describeT5(t5.graphs),
  ]
  return {
    encoders: encoders.filter((encoder) => encoder !== null),
    segments: [
      { diffusers: 0, reference: 0 },
      { diffusers: DIFFUSERS_T5_TOKENS, reference: 0 },
    ],
    empty_rows: CLIP_TOKENS,
    joint_width: contextWidth,
    pooled_width: pooledWidth,
  }
}

function describeClip(name: ClipName, { tokens }: Clip, column: number, pooledOffset: number): TextEncoderManifest {
  const length = { min: tokens, max: tokens }
  return {
    ...{ name, title: TITLES[name], tokenizer: TOKENIZERS[name], graphs: [name] },
    ...{ tokens: { diffusers: length, reference: length }, segment: 0, column, pooled_offset: pooledOffset },
  }
}

function describeT5(graphs: readonly string[]): TextEncoderManifest {
  const tokens = {
    diffusers: { min: DIFFUSERS_T5_TOKENS, max: DIFFUSERS_T5_TOKENS },
    reference: { min: CLIP_TOKENS, max: T5_MAX_TOKENS },
  }
  const name = 't5'
  return {
    ...{ name, title: TITLES[name], tokenizer: TOKENIZERS[name], graphs: [...graphs] },
    ...{ tokens, segment: 1, column: 0, pooled_offset: null },
  }
}
