// SD3.5's text encoders: CLIP-L, CLIP-G and T5, and how the pipeline joins their outputs.
// diffusers pipeline_stable_diffusion_3.py `encode_prompt`.
import { CheckpointError } from '../../compile/checkpoint/error.ts'
import type { Checkpoint } from '../../compile/checkpoint/tensor.ts'
import { buildGraph, type GraphSettings } from '../../compile/graph/build-graph.ts'
import type { Graph } from '../../compile/graph/graph.ts'
import { Ledger } from '../../compile/graph/ledger.ts'
import type { BuildOptions } from '../../compile/graph/model.ts'
import { hasT5 } from '../../contract.ts'
import type { Manifest, TextEncoderManifest } from '../../manifest.ts'
import { deriveClip, deriveT5 } from './configurations.ts'
import { TOKENIZERS } from './names/naming.ts'
import { clipText } from './networks/clip-text.ts'
import type { MMDiTConfig } from './networks/mmdit.ts'
import { splitT5, T5_MAX_TOKENS, t5Encoder } from './networks/t5-encoder.ts'
import { bitsOf } from './precision.ts'

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

const ENCODERS = ['clip_l', 'clip_g', 't5'] as const
const PROMPTS = { clip_l: 'prompt', clip_g: 'prompt_2', t5: 'prompt_3' } as const
const TITLES = { clip_l: 'CLIP-L', clip_g: 'CLIP-G', t5: 'T5' } as const
const CLIP_MARKS = { start: '<|startoftext|>', end: '<|endoftext|>', published: { rows: 49_408, ids: 49_408 } } as const
/** Properties of the published tokenizers that tokenizers of smaller vocabularies share. */
export const TOKENS = {
  clip_l: { ...CLIP_MARKS, pad: CLIP_MARKS.end },
  clip_g: { ...CLIP_MARKS, pad: '!' },
  t5: { start: null, end: '</s>', pad: '<pad>', published: { rows: 32_128, ids: 32_100 } },
} as const
/** diffusers' `max_sequence_length`: the tokens of T5, and the rows of zeros in place of an absent T5. */
const T5_ROWS = { default: 256, max: T5_MAX_TOKENS }
/** Graphs of T5: 24 layers in the published encoder. */
const MAX_T5_GRAPHS = 4

/** Whether T5 is left out of the package. */
export const omitsT5 = ({ tier, omitT5 }: Pick<BuildOptions, 'tier' | 'omitT5'>): boolean =>
  Boolean(omitT5) || !hasT5(tier)

/**
 * Builds the encoders that the checkpoint has. Throws CheckpointError, including for a missing encoder without `allowMissingEncoders`,
 * unless it is T5 and omitted, or its checkpoint lists it as null.
 */
export function buildTextEncoders(
  checkpoint: Checkpoint,
  config: MMDiTConfig,
  options: BuildOptions,
  settings: GraphSettings,
) {
  assertEncoders(checkpoint, options)
  const clip_l = buildClip('clip_l', checkpoint, settings)
  const clip_g = buildClip('clip_g', checkpoint, settings)
  assertClipWidths(clip_l, clip_g, config)
  const t5 = omitsT5(options) ? null : buildT5(checkpoint, config, options, settings)
  const built = [['clip_l', clip_l] as const, ['clip_g', clip_g] as const, ['t5', t5] as const]
  return {
    graphs: built.flatMap(([, encoder]) => encoder?.graphs ?? []),
    vocabularies: new Map(
      built.flatMap(([name, encoder]) =>
        encoder ? [[name, { rows: encoder.vocabulary, ...TOKENS[name] }] as const] : [],
      ),
    ),
    manifest: describeText({ clip_l, clip_g, t5: t5 && { graphs: t5.graphs.map(([name]) => name) } }, config),
    notes: t5 ? [] : [`Without T5, ${T5_ROWS.default} rows of zeros take its place, as in diffusers.`],
  }
}

function assertEncoders({ networks, declined, absent }: Checkpoint, options: BuildOptions): void {
  if (options.allowMissingEncoders) return
  const missing = ENCODERS.filter(
    (name) => !networks[name] && !(name === 't5' && (omitsT5(options) || declined.has(name))),
  )
  if (missing.length === 0) return
  const reasons = missing.flatMap((name) => absent.get(name) ?? (declined.has(name) ? `${name} is listed as null` : []))
  const t5 = missing.includes('t5') ? '; --omit-t5 compiles without T5' : ''
  throw new CheckpointError(
    'text encoders',
    `${missing.join(' and ')} missing: --checkpoint may be given once for each file${t5}; --allow-missing-encoders compiles without${reasons.map((reason) => `. ${reason}`).join('')}`,
  )
}

function buildClip(name: ClipName, checkpoint: Checkpoint, settings: GraphSettings): (Built & Clip) | null {
  const tensors = checkpoint.networks[name]
  if (!tensors) return null
  const config = deriveClip(name, tensors, checkpoint.config[name])
  const ledger = new Ledger(name, tensors)
  const graph = buildGraph(name, ledger, settings, (s) => clipText(s, config))
  ledger.assertComplete()
  return { ...config, graphs: [[name, graph]] }
}

function buildT5(
  checkpoint: Checkpoint,
  { contextWidth }: MMDiTConfig,
  options: BuildOptions,
  settings: GraphSettings,
): Built | null {
  const tensors = checkpoint.networks.t5
  if (!tensors) return null
  const config = deriveT5(tensors, checkpoint.config.t5)
  assertWidth('width of t5', config.width, contextWidth, '≠')
  // In 4 bits, the whole encoder takes less memory than a step. A session takes 72 MiB.
  const undivided = bitsOf(options.tier, options).t5Bits === 4 ? config.layers : undefined
  const parts = splitT5(config, options.encoderLayersPerGraph ?? undivided)
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
  if (l.width > g.width) {
    const problem = `clip_l is wider (${l.width}) than clip_g (${g.width}): the files of the two are swapped`
    throw new CheckpointError('text encoders', problem)
  }
  assertWidth('pooled width of clip_l and clip_g', l.pooledWidth + g.pooledWidth, pooledWidth, '≠')
  if (l.width + g.width > contextWidth) assertWidth('width of clip_l and clip_g', l.width + g.width, contextWidth, '>')
}

function assertWidth(what: string, given: number, expected: number, relation: string): void {
  if (given !== expected)
    throw new CheckpointError(
      'text encoders',
      `${what} is ${given} ${relation} ${expected}, which the transformer requires`,
    )
}

/**
 * CLIP-L and CLIP-G side by side, T5 below them, rows padded with zeros to the transformer's width, as in diffusers. Zeros take the
 * place of an absent T5.
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
    segments: [{ default: 0, max: 0 }, T5_ROWS],
    joint_width: contextWidth,
    pooled_width: pooledWidth,
  }
}

function describeClip(name: ClipName, { tokens }: Clip, column: number, pooledOffset: number): TextEncoderManifest {
  return {
    ...{ name, title: TITLES[name], tokenizer: TOKENIZERS[name], graphs: [name], prompt: PROMPTS[name] },
    ...{ tokens: { default: tokens, max: tokens }, segment: 0, column, pooled_offset: pooledOffset },
  }
}

function describeT5(graphs: readonly string[]): TextEncoderManifest {
  const name = 't5'
  return {
    ...{ name, title: TITLES[name], tokenizer: TOKENIZERS[name], graphs: [...graphs], prompt: PROMPTS[name] },
    ...{ tokens: T5_ROWS, segment: 1, column: 0, pooled_offset: null },
  }
}
