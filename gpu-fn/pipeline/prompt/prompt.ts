// Prompts to the denoiser's inputs: prompt embeddings [B, L, J] and a pooled vector [B, P] from the package's text encoders.
import type { Manifest, Rows, TextEncoderManifest } from '../../manifest.ts'
import type { Session, Tensor } from '../../runtime/session.ts'
import { settleAll } from '../../runtime/settle-all.ts'
import { parseWeights, WeightError } from '../../tokenizer/prompt-weights.ts'
import { type PromptTokenizer, type Tokens, tokenize, tokenizeWeighted } from '../../tokenizer/tokenizer.ts'
import { assertFinite } from '../non-finite.ts'

/** `about`: its entry in the manifest. */
export type TextEncoder = { about: TextEncoderManifest; session: Session; tokenizer: PromptTokenizer }

export type PromptEmbeds = { /** [L, J] */ embeds: Float32Array; rows: number /** [P] */; pooled: Float32Array }
/** `own`: texts for encoders of another prompt; they read `text` if theirs is absent or empty. */
export type NamedPrompt = {
  name: string
  text: string
  own?: { prompt_2?: string | undefined; prompt_3?: string | undefined }
}
export type EncodedPrompts = {
  prompts: PromptEmbeds[] /** One message for each truncated prompt. */
  truncations: string[]
}

type TextShape = Omit<Manifest['text'], 'encoders'>
type EncodedPrompt = { /** [rows, width] */ hidden: Float32Array; rows: number; pooled: Float32Array | null }
/** `maxTokens`: a request's max_sequence_length. `weighted`: whether prompts have weights. */
type Options = { maxTokens?: number | undefined; weighted?: boolean; batched: boolean; signal?: AbortSignal }

/**
 * Encodes prompts, in one run of each encoder if their lengths are equal and `batched` allows it. The encoders run concurrently. An
 * aborted signal stops them and throws its reason. Throws if an encoder produces NaN or infinity.
 */
export async function encodePrompts(
  encoders: readonly TextEncoder[],
  shape: TextShape,
  prompts: NamedPrompt[],
  options: Options,
): Promise<EncodedPrompts> {
  const truncations: string[] = []
  const encode = async ({ about, session, tokenizer }: TextEncoder): Promise<EncodedPrompt[]> => {
    const length = lengthOf(about.tokens, options)
    const own = prompts.map((prompt) => promptOf(prompt, about))
    const limits = { minTokens: length, maxTokens: length }
    const tokens: WeightedTokens[] = own.map(({ text }) =>
      options.weighted ? tokenizeWeighted(tokenizer, parseWeights(text), limits) : tokenize(tokenizer, text, limits),
    )
    truncations.push(...tokens.flatMap((each, i) => describeTruncation(about.title, own[i]!.name, each, length)))
    const encodings = await runEncoder(session, tokens, options)
    if (tokens.some(isWeighted)) {
      // A separate run, because the memory is planned for the batch of the prompts alone.
      const [empty] = await runEncoder(session, [tokenize(tokenizer, '', limits)], options)
      for (const [i, { hidden }] of encodings.entries()) applyWeights(hidden, empty!.hidden, tokens[i]!.weights)
    }
    for (const { hidden, pooled } of encodings) {
      assertFinite(hidden, `the output of ${about.title}`)
      if (pooled) assertFinite(pooled, `the pooled output of ${about.title}`)
    }
    return encodings
  }
  const encoded = await settleAll(encoders.map(encode))
  const joined = prompts.map((_, i) =>
    joinEncodings(
      encoders.map(({ about }, encoder) => ({ about, ...encoded[encoder]![i]! })),
      shape,
      options,
    ),
  )
  return { prompts: joined, truncations }
}

/** The problem of a prompt's weights, in words that follow the name of the field; null if there is none. */
export function describeWeightProblem(text: string): string | null {
  try {
    parseWeights(text)
    return null
  } catch (error) {
    if (error instanceof WeightError) return error.message
    throw error
  }
}

type WeightedTokens = Tokens & { weights?: Float32Array }

const isWeighted = ({ weights }: WeightedTokens): boolean => weights?.some((weight) => weight !== 1) ?? false

/**
 * Moves each row of `hidden` [rows, width] away from the row of the empty prompt, or toward it, in place. Pooled vectors have no weights.
 * ComfyUI comfy/sd1_clip.py `encode_token_weights`
 */
function applyWeights(hidden: Float32Array, empty: Float32Array, weights?: Float32Array): void {
  if (!weights) return
  const width = hidden.length / weights.length
  for (const [row, weight] of weights.entries()) {
    if (weight === 1) continue
    for (let i = row * width; i < (row + 1) * width; i++) {
      const difference = Math.fround(hidden[i]! - empty[i]!)
      hidden[i] = Math.fround(difference * weight) + empty[i]!
    }
  }
}

const lengthOf = (rows: Rows, { maxTokens }: Options) => Math.min(maxTokens ?? rows.default, rows.max)

function promptOf({ name, text, own }: NamedPrompt, { prompt }: TextEncoderManifest): { name: string; text: string } {
  const other = prompt === 'prompt' ? undefined : own?.[prompt]
  return other ? { name: prompt, text: other } : { name, text }
}

function describeTruncation(encoder: string, prompt: string, { cut }: Tokens, maxTokens: number): string[] {
  if (cut === undefined) return []
  return [`the ${prompt} exceeds the ${maxTokens} tokens of ${encoder}, so "${cut}" is ignored`]
}

async function runEncoder(session: Session, tokens: Tokens[], { batched, signal }: Options): Promise<EncodedPrompt[]> {
  const rows = tokens[0]!.ids.length
  if (!batched || tokens.some(({ ids }) => ids.length !== rows)) {
    const each: EncodedPrompt[] = []
    for (const { ids } of tokens)
      each.push(...splitBatch(await session.run({ input_ids: { data: ids, dims: [1, ids.length] } }, { signal })))
    return each
  }
  const data = new BigInt64Array(rows * tokens.length)
  for (const [i, { ids }] of tokens.entries()) data.set(ids, i * rows)
  return splitBatch(await session.run({ input_ids: { data, dims: [tokens.length, rows] } }, { signal }))
}

function splitBatch({ hidden, pooled }: Record<string, Tensor>): EncodedPrompt[] {
  const [batch, rows] = hidden!.dims as [number, number]
  return Array.from({ length: batch }, (_, i) => ({
    rows,
    hidden: sample(hidden!, i),
    pooled: pooled ? sample(pooled, i) : null,
  }))
}

function sample({ data, dims }: Tensor, i: number): Float32Array {
  const size = data.length / dims[0]!
  return (data as Float32Array).subarray(i * size, (i + 1) * size)
}

/** Places the outputs of all encoders for one prompt, as the manifest describes; everything else is zero. */
function joinEncodings(
  encodings: readonly (EncodedPrompt & { about: TextEncoderManifest })[],
  { segments, joint_width: joint, pooled_width }: TextShape,
  options: Options,
): PromptEmbeds {
  const lengths = segments.map((absent, segment) => {
    const present = encodings.filter(({ about }) => about.segment === segment)
    return present.length > 0 ? Math.max(...present.map(({ rows }) => rows)) : lengthOf(absent, options)
  })
  const startOf = (segment: number) => lengths.slice(0, segment).reduce((sum, length) => sum + length, 0)
  const rows = startOf(segments.length)
  const embeds = new Float32Array(rows * joint)
  const pooled = new Float32Array(pooled_width)
  for (const { about, ...encoded } of encodings) {
    placeRows(encoded, embeds, joint, startOf(about.segment), about.column)
    if (encoded.pooled && about.pooled_offset !== null) pooled.set(encoded.pooled, about.pooled_offset)
  }
  return { embeds, rows, pooled }
}

function placeRows(
  { hidden, rows }: EncodedPrompt,
  embeds: Float32Array,
  joint: number,
  first: number,
  column: number,
): void {
  const width = hidden.length / rows
  for (let row = 0; row < rows; row++) {
    embeds.set(hidden.subarray(row * width, (row + 1) * width), (first + row) * joint + column)
  }
}
