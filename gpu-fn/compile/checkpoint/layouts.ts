// Which network a tensor of a single file belongs to, and which tensors are left unread on purpose.
import path from 'node:path'
import { CheckpointError, quote } from './error.ts'
import type { SafetensorsFile, TensorInfo } from './safetensors.ts'
import type { CheckpointNetwork } from './tensor.ts'

/** The tensors of one network as a file names them, prefix removed. */
export type RawNetwork = { file: string; tensors: Map<string, TensorInfo> }

const PREFIXES: readonly [prefix: string, network: CheckpointNetwork][] = [
  ['model.diffusion_model.', 'transformer'],
  ['text_encoders.clip_l.transformer.', 'clip_l'],
  ['text_encoders.clip_g.transformer.', 'clip_g'],
  ['text_encoders.t5xxl.transformer.', 't5'],
  ['text_encoders.clip_l.', 'clip_l'],
  ['text_encoders.clip_g.', 'clip_g'],
  ['text_encoders.t5xxl.', 't5'],
  ['first_stage_model.', 'vae'],
]

const CLIP_EMBEDDING = 'text_model.embeddings.token_embedding.weight'
const CLIP_WIDTHS: Readonly<Record<number, CheckpointNetwork>> = { 768: 'clip_l', 1280: 'clip_g' }

type Skip = { networks: readonly CheckpointNetwork[] | 'all'; pattern: RegExp; reason: string }

/** Every tensor that is left unread, with the reason. Anything else must be consumed by a network. */
export const SKIPPED: readonly Skip[] = [
  { networks: 'all', pattern: /(^|\.)scaled_fp8$/, reason: 'marks a file of scaled FP8; the dtypes say it already' },
  { networks: 'all', pattern: /\.scale_input$/, reason: 'scale of an activation; ours are measured as they come' },
  { networks: ['clip_l', 'clip_g'], pattern: /\.position_ids$/, reason: 'the numbers 0 to 76' },
  { networks: ['clip_l', 'clip_g', 't5'], pattern: /^logit_scale$/, reason: 'temperature of the contrastive training' },
  { networks: ['vae'], pattern: /^encoder\./, reason: 'text to image only decodes' },
  { networks: ['vae'], pattern: /^quant_conv\./, reason: 'belongs to the encoder' },
]

/** The running average that training keeps beside the weights. */
const AVERAGE_PREFIX = 'model_ema.'

/** True when `name` (prefix removed) of `network` is on the list of what is left unread. */
export function isSkipped(network: CheckpointNetwork, name: string): boolean {
  return SKIPPED.some(
    ({ networks, pattern }) => (networks === 'all' || networks.includes(network)) && pattern.test(name),
  )
}

/** Sorts the tensors of a file by network. Throws CheckpointError for tensors that belong to none. */
export function splitNetworks(source: SafetensorsFile): Map<CheckpointNetwork, RawNetwork> {
  const networks = new Map<CheckpointNetwork, RawNetwork>()
  const bare = new Map<string, TensorInfo>()
  for (const [name, info] of source.tensors) {
    if (name.startsWith(AVERAGE_PREFIX)) continue
    const [prefix, network] = PREFIXES.find(([candidate]) => name.startsWith(candidate)) ?? []
    if (!prefix || !network) bare.set(name, info)
    else addTensor(source.file, networks, network, name.slice(prefix.length), info)
  }
  if (bare.size > 0) {
    const network = networkOfNames(source.file, bare)
    for (const [name, info] of bare) addTensor(source.file, networks, network, name, info)
  }
  return networks
}

function addTensor(
  file: string,
  networks: Map<CheckpointNetwork, RawNetwork>,
  network: CheckpointNetwork,
  name: string,
  info: TensorInfo,
): void {
  const { tensors } = networks.get(network) ?? { tensors: new Map<string, TensorInfo>() }
  if (tensors.has(name))
    throw new CheckpointError(file, `tensor ${quote(info.name)}: ${network} has ${quote(name)} already`)
  networks.set(network, { file, tensors: tensors.set(name, info) })
}

function networkOfNames(file: string, tensors: ReadonlyMap<string, TensorInfo>): CheckpointNetwork {
  const names = [...tensors.keys()]
  const has = (...prefixes: string[]) => names.some((name) => prefixes.some((prefix) => name.startsWith(prefix)))
  if (has('joint_blocks.', 'transformer_blocks.')) return 'transformer'
  if (has('decoder.')) return 'vae'
  if (has('encoder.block.')) return 't5'
  if (has('text_model.')) return clipOf(file, tensors.get(CLIP_EMBEDDING))
  throw new CheckpointError(file, `left over: ${listNames(names)}; no network of SD3.5 has these names`)
}

/** By the width of the published encoders; encoders of other sizes are told apart by their file's name. */
function clipOf(file: string, embedding: TensorInfo | undefined): CheckpointNetwork {
  const width = embedding?.shape[1]
  const byWidth = width === undefined ? undefined : CLIP_WIDTHS[width]
  if (byWidth) return byWidth
  const named = (['clip_l', 'clip_g'] as const).filter((network) => path.basename(file).toLowerCase().includes(network))
  if (named.length === 1) return named[0]!
  throw new CheckpointError(
    file,
    `a CLIP text encoder of width ${width ?? 'unknown'} is CLIP-L (768) or CLIP-G (1280) only if its file's name has clip_l or clip_g`,
  )
}

/** The first few names, and how many more there are. */
export function listNames(names: readonly string[]): string {
  const shown = names.slice(0, 5).map(quote).join(', ')
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown
}
