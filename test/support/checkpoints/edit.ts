// Changes to the files of a tiny checkpoint, as other programs store them.
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { readHeader } from '../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import { packTensors, type TensorContent } from './safetensors-file.ts'

export type Tensors = Record<string, TensorContent & { data: Uint8Array }>

/** The tensors of a small safetensors file with their bytes. */
export async function readStoredTensors(file: string): Promise<Tensors> {
  const [{ tensors }, bytes] = await Promise.all([readHeader(file), readFile(file)])
  return Object.fromEntries(
    [...tensors].map(([name, { dtype, shape, offset, bytes: size }]) => [
      name,
      { dtype, shape, data: new Uint8Array(bytes.subarray(offset, offset + size)) },
    ]),
  )
}

/** Writes a safetensors file and its folder, and returns its path. */
export async function writeStoredTensors(file: string, tensors: Record<string, TensorContent>): Promise<string> {
  await mkdir(path.dirname(file), { recursive: true })
  await writeFile(file, packTensors(tensors))
  return file
}

/** Replaces a safetensors file by `to`, with changed tensors. */
export async function rewriteTensors(
  file: string,
  to: string,
  change: (tensors: Tensors) => Record<string, TensorContent> = (tensors) => tensors,
): Promise<string> {
  const tensors = change(await readStoredTensors(file))
  await rm(file)
  return writeStoredTensors(to, tensors)
}

export const renameAll = (tensors: Tensors, rename: (name: string) => string): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([name, stored]) => [rename(name), stored]))

/** Changes a JSON file; a value of undefined removes the key. */
export async function editJson(file: string, changes: Record<string, unknown>): Promise<void> {
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, 'utf8')), ...changes }))
}

/** The tensors in two parts, as two shards store them. */
export function createHalves(tensors: Tensors): [Tensors, Tensors] {
  const entries = Object.entries(tensors)
  const middle = Math.ceil(entries.length / 2)
  return [Object.fromEntries(entries.slice(0, middle)), Object.fromEntries(entries.slice(middle))]
}

/** F32 as F64. */
export function widen({ dtype, shape, data }: TensorContent & { data: Uint8Array }): TensorContent {
  if (dtype !== 'F32') throw new Error(`${dtype} is not F32`)
  return { dtype: 'F64', shape, data: new Uint8Array(Float64Array.from(floatsOf(data)).buffer) }
}

const floatsOf = (data: Uint8Array) => new Float32Array(data.slice().buffer)

/** A CLIP text encoder under OpenCLIP's names: q, k and v in one tensor, and the projection transposed. */
export function toOpenClip(tensors: Tensors): Tensors {
  const names: [RegExp, string][] = [
    [/^text_model\.embeddings\.token_embedding\.weight$/, 'token_embedding.weight'],
    [/^text_model\.embeddings\.position_embedding\.weight$/, 'positional_embedding'],
    [/^text_model\.final_layer_norm\./, 'ln_final.'],
    [/^text_model\.encoder\.layers\.(\d+)\./, 'transformer.resblocks.$1.'],
    [/\.layer_norm([12])\./, '.ln_$1.'],
    [/\.self_attn\.out_proj\./, '.attn.out_proj.'],
    [/\.mlp\.fc1\./, '.mlp.c_fc.'],
    [/\.mlp\.fc2\./, '.mlp.c_proj.'],
  ]
  const renamed: Tensors = {}
  for (const [name, stored] of Object.entries(tensors)) {
    const [, layer, parameter] = /^text_model\.encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.(\w+)$/.exec(name) ?? []
    if (layer) {
      const stacked = `transformer.resblocks.${layer}.attn.in_proj_${parameter}`
      const parts = ['q', 'k', 'v'].map(
        (p) => tensors[`text_model.encoder.layers.${layer}.self_attn.${p}_proj.${parameter}`]!,
      )
      const [rows, ...rest] = stored.shape as [number, ...number[]]
      renamed[stacked] = {
        dtype: stored.dtype,
        shape: [3 * rows, ...rest],
        data: Buffer.concat(parts.map(({ data }) => data)),
      }
    } else if (name === 'text_projection.weight') renamed.text_projection = transpose(stored)
    else renamed[names.reduce((result, [from, to]) => result.replace(from, to), name)] = stored
  }
  return renamed
}

function transpose({ dtype, shape, data }: TensorContent & { data: Uint8Array }): TensorContent & { data: Uint8Array } {
  const [rows, columns] = shape as [number, number]
  const values = floatsOf(data)
  const out = Float32Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!)
  return { dtype, shape: [columns, rows], data: new Uint8Array(out.buffer) }
}
