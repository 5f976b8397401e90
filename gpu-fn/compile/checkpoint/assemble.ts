// The tensors of one network as a file has them, made into Stability's: skipped, scaled, renamed, stacked, their rows swapped.

import { type Placement, placeTransformer, placeVae } from './diffusers-names.ts'
import { BYTES_PER_ELEMENT } from './dtype.ts'
import { CheckpointError, quote } from './error.ts'
import { isSkipped, listNames, type RawNetwork } from './layouts.ts'
import type { TensorInfo } from './safetensors.ts'
import { foldScales } from './scale-weight.ts'
import type { CheckpointNetwork, Part, Tensor } from './tensor.ts'

/** `raw` under Stability's names, whichever of the two vocabularies it has. Throws CheckpointError for what fits neither. */
export async function assembleNetwork(network: CheckpointNetwork, raw: RawNetwork): Promise<Map<string, Tensor>> {
  const wanted = new Map([...raw.tensors].filter(([name]) => !isSkipped(network, name)))
  if (network === 't5') untieEmbedding(raw.file, wanted)
  const scales = await foldScales(raw.file, wanted)
  const tensors = new Map([...wanted].map(([name, info]) => [name, toTensor(name, info, scales.get(name) ?? 1)]))
  if (network === 'transformer') return renameTransformer(raw.file, tensors)
  if (network === 'vae') return withLinearAttention(raw.file, renameVae(raw.file, tensors))
  return tensors
}

/** T5 files that hold the embedding twice name the second `encoder.embed_tokens`; transformers ties the two. */
function untieEmbedding(file: string, tensors: Map<string, TensorInfo>): void {
  const copy = tensors.get('encoder.embed_tokens.weight')
  if (!copy) return
  tensors.delete('encoder.embed_tokens.weight')
  const shared = tensors.get('shared.weight')
  if (!shared) tensors.set('shared.weight', copy)
  else if (shared.shape.join() !== copy.shape.join()) {
    throw new CheckpointError(
      file,
      'shared.weight and encoder.embed_tokens.weight must be the same table; their shapes differ',
    )
  }
}

function toTensor(name: string, info: TensorInfo, scale: number): Tensor {
  const { dtype, shape, file, offset, bytes } = info
  if (!isParameterDtype(dtype)) {
    const allowed = Object.keys(BYTES_PER_ELEMENT).join(', ')
    throw new CheckpointError(
      file,
      `tensor ${quote(info.name)}: parameters of dtype ${dtype} cannot be compiled; ${allowed} can`,
    )
  }
  return { name, dtype, shape, parts: [{ file, offset, bytes }], scale }
}

function isParameterDtype(dtype: string): dtype is Tensor['dtype'] {
  return Object.hasOwn(BYTES_PER_ELEMENT, dtype)
}

function renameTransformer(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  const depth = countOf(tensors, /^transformer_blocks\.(\d+)\./)
  return depth === 0 ? tensors : rename(file, tensors, (name) => placeTransformer(name, depth))
}

function renameVae(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  const levels = countOf(tensors, /^decoder\.up_blocks\.(\d+)\./)
  return levels === 0 ? tensors : rename(file, tensors, (name) => placeVae(name, levels))
}

/** One more than the largest number that `pattern` captures in a name. */
function countOf(tensors: ReadonlyMap<string, Tensor>, pattern: RegExp): number {
  let count = 0
  for (const name of tensors.keys()) count = Math.max(count, Number(pattern.exec(name)?.[1] ?? -1) + 1)
  return count
}

function rename(
  file: string,
  tensors: Map<string, Tensor>,
  place: (name: string) => Placement | undefined,
): Map<string, Tensor> {
  const stacks = new Map<string, { placement: Placement; pieces: (Tensor | undefined)[] }>()
  const leftOver: string[] = []
  for (const [name, tensor] of tensors) {
    const placement = place(name)
    if (!placement) {
      leftOver.push(name)
      continue
    }
    const stack = stacks.get(placement.name) ?? { placement, pieces: new Array<Tensor | undefined>(placement.count) }
    if (stack.pieces[placement.index]) throw new CheckpointError(file, `two tensors stand for ${quote(placement.name)}`)
    stack.pieces[placement.index] = tensor
    stacks.set(placement.name, stack)
  }
  if (leftOver.length > 0)
    throw new CheckpointError(file, `left over: ${listNames(leftOver)}; SD3.5 has no such parameters`)
  return new Map([...stacks].map(([name, { placement, pieces }]) => [name, stackRows(file, placement, pieces)]))
}

function stackRows(file: string, { name, count, swap }: Placement, pieces: readonly (Tensor | undefined)[]): Tensor {
  const present = pieces.filter((piece) => piece !== undefined)
  const first = present[0]!
  if (present.length < count) {
    throw new CheckpointError(
      file,
      `${quote(name)} is made of ${count} tensors; only ${listNames(present.map((p) => p.name))} exist`,
    )
  }
  for (const piece of present) {
    const differs = kindOf(piece) !== kindOf(first)
    if (differs) {
      throw new CheckpointError(
        file,
        `${quote(piece.name)} (${kindOf(piece)}) cannot be stacked on ${quote(first.name)} (${kindOf(first)})`,
      )
    }
  }
  const parts = present.flatMap((piece) => piece.parts)
  const rows = present.reduce((sum, piece) => sum + (piece.shape[0] ?? Number.NaN), 0)
  if (count > 1 && Number.isNaN(rows))
    throw new CheckpointError(file, `${listNames(present.map((p) => p.name))} have no rows to stack`)
  const shape = count === 1 ? first.shape : [rows, ...first.shape.slice(1)]
  return { name, dtype: first.dtype, shape, parts: swap ? swapHalves(file, first) : parts, scale: first.scale }
}

/** What must agree for rows to be stacked. */
function kindOf({ dtype, shape, scale }: Tensor): string {
  return `${dtype} [*, ${shape.slice(1).join(', ')}]${scale === 1 ? '' : ` × ${scale}`}`
}

function swapHalves(file: string, tensor: Tensor): Part[] {
  const rows = tensor.shape[0]
  if (rows === undefined || rows % 2 !== 0) {
    throw new CheckpointError(
      file,
      `${quote(tensor.name)} holds a scale and a shift and must have an even number of rows, not ${rows}`,
    )
  }
  return tensor.parts.flatMap(({ file: at, offset, bytes }) => [
    { file: at, offset: offset + bytes / 2, bytes: bytes / 2 },
    { file: at, offset, bytes: bytes / 2 },
  ])
}

/** Stability stores the attention of the autoencoder as 1×1 convolutions; here they are matrices, as in diffusers. */
function withLinearAttention(file: string, tensors: Map<string, Tensor>): Map<string, Tensor> {
  for (const [name, tensor] of tensors) {
    if (!/^decoder\.mid\.attn_1\.(q|k|v|proj_out)\.weight$/.test(name)) continue
    const [rows, columns, ...kernel] = tensor.shape
    if (rows === undefined || columns === undefined || kernel.some((size) => size !== 1)) {
      throw new CheckpointError(file, `${quote(name)} must be [C, C] or [C, C, 1, 1], not [${tensor.shape.join(', ')}]`)
    }
    tensors.set(name, { ...tensor, shape: [rows, columns] })
  }
  return tensors
}
