// Prompts to what the denoiser reads: prompt embeddings [B, L, J] and a pooled vector [B, P] from up to three text encoders.
// diffusers pipeline_stable_diffusion_3.py `encode_prompt`; ComfyUI comfy/text_encoders/sd3_clip.py where an encoder is absent.

import type { JobRequest } from '../contract.ts'
import type { Manifest } from '../manifest.ts'
import type { Session, Tensor } from '../runtime/session.ts'
import { type PromptTokenizer, type Tokens, tokenize } from '../tokenizer/tokenizer.ts'

export type EncoderName = 'clip_l' | 'clip_g' | 't5'
export type TextEncoder = { session: Session; tokenizer: PromptTokenizer }
export type TextEncoders = Partial<Record<EncoderName, TextEncoder>>

export type PromptEmbeds = { /** [L, J] */ embeds: Float32Array; rows: number /** [P] */; pooled: Float32Array }
export type NamedPrompt = { name: string; text: string }
export type EncodedPrompts = {
  prompts: PromptEmbeds[] /** What was cut from which prompt for which encoder. */
  truncations: string[]
}

type TextShape = Manifest['text']
type Convention = JobRequest['text_convention']
type Encoded = { /** [L, width] */ hidden: Float32Array; rows: number; pooled: Float32Array }

const TITLES: Record<EncoderName, string> = { clip_l: 'CLIP-L', clip_g: 'CLIP-G', t5: 'T5' }
const CLIP_TOKENS = 77
/** diffusers' `max_sequence_length`: T5 reads this many tokens, and this many rows of zeros stand for a T5 that is absent. */
const DIFFUSERS_T5_TOKENS = 256

/**
 * Encodes prompts, in one run of each encoder where their lengths agree and `batched` allows it. All runs are asked for before the first
 * is waited for. An aborted signal stops them, and throws its reason.
 */
export async function encodePrompts(
  encoders: TextEncoders,
  shape: TextShape,
  prompts: NamedPrompt[],
  options: { convention: Convention; batched: boolean; signal?: AbortSignal },
): Promise<EncodedPrompts> {
  const truncations: string[] = []
  const encodeBy = async (name: EncoderName): Promise<Encoded[] | undefined> => {
    const encoder = encoders[name]
    if (!encoder) return undefined
    const limits = tokenLimits(name, shape, options.convention)
    const tokens = prompts.map(({ text }) => tokenize(encoder.tokenizer, text, limits))
    truncations.push(...tokens.flatMap((each, i) => describeCut(name, prompts[i]!.name, each, limits.maxTokens)))
    return runEncoder(encoder.session, tokens, options)
  }
  const [clipL, clipG, t5] = await Promise.all([encodeBy('clip_l'), encodeBy('clip_g'), encodeBy('t5')])
  const embeds = prompts.map((_, i) => assemble(shape, options.convention, clipL?.[i], clipG?.[i], t5?.[i]))
  return { prompts: embeds, truncations }
}

/** The reference pads T5 to CLIP's length and lets long prompts grow to what the model takes; diffusers has one length for all. */
function tokenLimits(name: EncoderName, shape: TextShape, convention: Convention) {
  if (name !== 't5') {
    const tokens = shape[name]!.tokens
    return { minTokens: tokens, maxTokens: tokens }
  }
  const most = shape.t5!.max_tokens
  if (convention === 'reference') return { minTokens: Math.min(CLIP_TOKENS, most), maxTokens: most }
  const tokens = Math.min(DIFFUSERS_T5_TOKENS, most)
  return { minTokens: tokens, maxTokens: tokens }
}

function describeCut(encoder: EncoderName, prompt: string, { cut }: Tokens, maxTokens: number): string[] {
  if (cut === undefined) return []
  return [`the ${prompt} is longer than the ${maxTokens} tokens of ${TITLES[encoder]}, which did not read "${cut}"`]
}

async function runEncoder(
  session: Session,
  tokens: Tokens[],
  { batched, signal }: { batched: boolean; signal?: AbortSignal },
): Promise<Encoded[]> {
  const rows = tokens[0]!.ids.length
  if (!batched || tokens.some(({ ids }) => ids.length !== rows)) {
    const each: Encoded[] = []
    for (const { ids } of tokens)
      each.push(...split(await session.run({ input_ids: { data: ids, dims: [1, ids.length] } }, { signal })))
    return each
  }
  const data = new BigInt64Array(rows * tokens.length)
  for (const [i, { ids }] of tokens.entries()) data.set(ids, i * rows)
  return split(await session.run({ input_ids: { data, dims: [tokens.length, rows] } }, { signal }))
}

/** The samples of a batch; T5 has no pooled output. */
function split({ hidden, pooled }: Record<string, Tensor>): Encoded[] {
  const [batch, rows] = hidden!.dims as [number, number]
  return Array.from({ length: batch }, (_, i) => ({
    rows,
    hidden: sample(hidden!, i),
    pooled: pooled ? sample(pooled, i) : new Float32Array(0),
  }))
}

function sample({ data, dims }: Tensor, i: number): Float32Array {
  const size = data.length / dims[0]!
  return (data as Float32Array).subarray(i * size, (i + 1) * size)
}

/** [77 rows of CLIP-L beside CLIP-G | rows of T5], each row padded with zeros to J; an absent CLIP leaves its columns zero. */
function assemble(
  shape: TextShape,
  convention: Convention,
  clipL?: Encoded,
  clipG?: Encoded,
  t5?: Encoded,
): PromptEmbeds {
  const { joint_width: joint, pooled_width: pooledWidth } = shape
  const clipRows = clipL?.rows ?? clipG?.rows ?? 0
  const t5Rows = t5?.rows ?? (convention === 'diffusers' ? DIFFUSERS_T5_TOKENS : 0)
  const rows = clipRows + t5Rows || CLIP_TOKENS
  const embeds = new Float32Array(rows * joint)
  const pooled = new Float32Array(pooledWidth)
  // Without CLIP-L, CLIP-G keeps the place it has beside it; CLIP-L is as wide as its pooled vector.
  const widthL = shape.clip_l?.width ?? pooledWidth - (clipG?.pooled.length ?? 0)
  if (clipL) {
    place(clipL, embeds, joint, 0)
    pooled.set(clipL.pooled)
  }
  if (clipG) {
    place(clipG, embeds, joint, widthL)
    pooled.set(clipG.pooled, pooledWidth - clipG.pooled.length)
  }
  if (t5) embeds.set(t5.hidden, clipRows * joint)
  return { embeds, rows, pooled }
}

function place({ hidden, rows }: Encoded, embeds: Float32Array, joint: number, column: number): void {
  const width = hidden.length / rows
  for (let row = 0; row < rows; row++) {
    embeds.set(hidden.subarray(row * width, (row + 1) * width), row * joint + column)
  }
}
