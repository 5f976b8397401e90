// MMDiT and MMDiT-X, the SD3.5 denoiser. arXiv 2403.03206; Stability-AI/sd3.5 mmditx.py @ fbf8f48.
// B batch · S image tokens · L text tokens · T steps · D width · H attention heads · J width of prompt embeddings · P of pooled ones
//
// Step-invariant work (adaLN modulation, prompt projection) is hoisted into the graph `conditioning`, which runs once per image and removes
// a third of the denoiser's weights from the loop. The graph `transformer` is one step.
import type { Graph, Value } from '../../../compile/graph/graph.ts'
import type { Modulation, ModulationVector, Stream } from '../../../compile/graph/layer-types.ts'
import {
  addTo,
  attend,
  branch,
  conv2d,
  linear,
  modulate,
  outputWidth,
  probe,
  toActivations,
  toStream,
  widthOf,
} from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'

export type MMDiTConfig = {
  readonly depth: number
  readonly width: number
  readonly heads: number
  readonly patchSize: number
  readonly inChannels: number
  readonly outChannels: number
  /** Rows and columns of the position table. */
  readonly positionMax: number
  readonly contextWidth: number
  readonly pooledWidth: number
  readonly qkNorm: boolean
  /** Blocks with a second, image-only attention (MMDiT-X). */
  readonly dualAttention: readonly number[]
}

/** The position table [max, max, D] as two tables [max, D / 2] of columns and rows; null if it is not a combination of the two. */
export type PositionTables = { readonly columns: Float32Array; readonly rows: Float32Array } | null

export const EPSILON = 1e-6
const FREQUENCIES = 128

type BlockShape = { readonly index: number; readonly last: boolean; readonly dual: boolean }
const blocksOf = ({ depth, dualAttention }: MMDiTConfig): BlockShape[] =>
  Array.from({ length: depth }, (_, index) => ({
    index,
    last: index === depth - 1,
    dual: dualAttention.includes(index),
  }))

// Rows of adaLN's result, in the checkpoint's order. mmditx.py `DismantledBlock.forward`
const SHIFT_SCALE = ['shift', 'scale']
export const MODULATION = ['shift_msa', 'scale_msa', 'gate_msa', 'shift_mlp', 'scale_mlp', 'gate_mlp']
const DUAL_MODULATION = [...MODULATION, 'shift_msa2', 'scale_msa2', 'gate_msa2']

/** The layout of a `modulation` vector [M]: M = width × entries. */
export type ModulationLayout = readonly { readonly module: string; readonly names: readonly string[] }[]

function createModulationLayout(config: MMDiTConfig): ModulationLayout {
  const blocks = blocksOf(config).flatMap(({ index, last, dual }) => [
    { module: `joint_blocks.${index}.x_block`, names: dual ? DUAL_MODULATION : MODULATION },
    { module: `joint_blocks.${index}.context_block`, names: last ? SHIFT_SCALE : MODULATION },
  ])
  return [...blocks, { module: 'final_layer', names: SHIFT_SCALE }]
}

/** The gates of each block, as rows of `width` values in the modulation. Without them a block leaves its inputs unchanged. */
export function gatesOf(config: MMDiTConfig): number[][] {
  const rows = createModulationLayout(config).flatMap(({ module, names }) => names.map((name) => ({ module, name })))
  return blocksOf(config).map(({ index }) =>
    rows.flatMap(({ module, name }, row) =>
      module.startsWith(`joint_blocks.${index}.`) && name.startsWith('gate') ? [row] : [],
    ),
  )
}

/** sigma·1000 → [cos | sin] of 128 frequencies. mmditx.py `TimestepEmbedder.timestep_embedding` */
export function addTimestepEmbedding(t: Value): Value {
  const computeExponent = (k: number) => Math.fround(Math.fround(Math.fround(-Math.log(10000)) * k) / FREQUENCIES)
  const frequencies = Array.from({ length: FREQUENCIES }, (_, k) => Math.exp(computeExponent(k)))
  const angle = ops.multiply(ops.reshape(t, ['T', 1]), ops.float32(t, frequencies, [1, FREQUENCIES])) // [T, 128]
  return ops.concat([ops.cos(angle), ops.sin(angle)], 1) // [T, 256]
}

function embedder(s: Scope, x: Value, width: number): Value {
  return linear(s.at('mlp', 2), ops.silu(linear(s.at('mlp', 0), x, width)), width)
}

/** Graph `conditioning`: timesteps [T], pooled [B, P], prompt_embeds [B, L, J] → modulation [T, B, M], context [B, L, D]. */
export function conditioning(s: Scope, config: MMDiTConfig): Graph {
  const { graph } = s
  const { width, pooledWidth, contextWidth } = config
  const timesteps = graph.input('timesteps', 'float32', ['T'])
  const pooled = graph.input('pooled', 'float32', ['B', pooledWidth])
  const promptEmbeds = graph.input('prompt_embeds', 'float32', ['B', 'L', contextWidth])

  const time = embedder(s.at('t_embedder'), toActivations(s, addTimestepEmbedding(timesteps)), width) // [T, D]
  const vector = embedder(s.at('y_embedder'), toActivations(s, pooled), width) // [B, D]
  const modulation = modulationOf(s, time, vector, createModulationLayout(config)) // [T, B, M]

  graph.output('modulation', modulation)
  graph.output('context', ops.cast(linear(s.at('context_embedder'), toActivations(s, promptEmbeds), width), 'float32')) // [B, L, D]
  return graph
}

/** adaLN of all modules: embeddings of time [T, D] and of the pooled prompt [B, D] → [T, B, M]. */
export function modulationOf(s: Scope, time: Value, vector: Value, layout: ModulationLayout): Value {
  const width = widthOf(time)
  const c = ops.silu(ops.add(ops.reshape(time, ['T', 1, width]), vector)) // [T, B, D]
  const adaLN = ({ module, names: { length } }: (typeof layout)[number]) =>
    ops.reshape(linear(s.at(module, 'adaLN_modulation', 1), c, length * width), ['T', 'B', length, width])
  // onnxruntime writes a table of the concatenated axis in every run: here it has 454 rows instead of a million values.
  const rows = ops.concat(layout.map(adaLN), 2)
  return toModulation(s, ops.cast(rows, 'float32'), layout)
}

/** Rows [T, B, n, D] as a modulation [T, B, M]. Scales are stored as 1 + scale and gates in units of the stream, as all uses require. */
function toModulation(s: Scope, rows: Value, layout: ModulationLayout): Value {
  const names = layout.flatMap((entry) => entry.names)
  const column = (entry: (name: string) => number) => ops.float32(rows, names.map(entry), [names.length, 1])
  const { streamUnit } = s.lowering
  const factors = column((name) => (name.startsWith('gate') ? 1 / streamUnit : 1))
  const inUnits = streamUnit === 1 ? rows : ops.multiply(rows, factors)
  const ones = column((name) => (name.startsWith('scale') ? 1 : 0))
  return ops.reshape(ops.add(inUnits, ones), ['T', 'B', names.length * widthOf(rows)])
}

/** Graph `embedding`, for ControlNets: latent [B, C, h, w] → tokens [B, S, D], the input of the first block of `transformer`. */
export function embedding(s: Scope, config: MMDiTConfig, positions: PositionTables): Graph {
  const latent = s.graph.input('latent', 'float32', [s.lowering.batch, config.inChannels, 'h', 'w'])
  s.graph.output('tokens', embedPatches(s, latent, patchGrid(latent, config.patchSize), config, positions))
  return s.graph
}

/** Inputs of the step graph with a ControlNet: `residual_0` … [B, S, D], in units of the stream. As in diffusers, the last block gets none. */
export const nameResidual = (block: number) => `residual_${block}`

/**
 * Graph `transformer`, one step: latent [B, C, h, w], modulation [B, M], context [B, L, D] → velocity [B, C, h, w]. With `controlled`, also
 * takes a residual for each block but the last, which is added after the block.
 */
export function transformer(s: Scope, config: MMDiTConfig, positions: PositionTables, controlled = false): Graph {
  const { graph } = s
  const { width, patchSize, inChannels } = config
  const batch = s.lowering.batch
  const total = width * createModulationLayout(config).flatMap(({ names }) => names).length
  const latent = graph.input('latent', 'float32', [batch, inChannels, 'h', 'w'])
  const modulation = graph.input('modulation', 'float32', [batch, total])
  const text = graph.input('context', 'float32', [batch, 'L', width])

  const grid = patchGrid(latent, patchSize)
  let x = toStream(s, embedPatches(s, latent, grid, config, positions)) // [B, S, D]
  let context = toStream(s, toActivations(s, text)) // [B, L, D]

  const vectors = addModulationTable(s, modulation, config, createModulationLayout(config))
  for (const block of blocksOf(config)) {
    ;({ x, context } = jointBlock(s.at('joint_blocks', block.index), x, context, vectors, config, block))
    if (!controlled || block.last) continue
    const residual = graph.input(nameResidual(block.index), s.lowering.activations, [batch, 'S', width])
    x = { value: ops.add(x.value, ops.cast(residual, x.value.dtype)), deferred: x.deferred }
  }
  const last = s.at('final_layer', 'linear')
  const { normed } = modulate(s.at('final_layer'), x, [vectors('final_layer', '')], EPSILON, last)
  const tokens = linear(last, normed[0]!, patchSize * patchSize * config.outChannels) // [B, S, p·p·C]
  graph.output('velocity', unpatchify(ops.cast(tokens, 'float32'), latent, grid, config))
  return graph
}

/** A latent's patches at their positions [B, S, D]; without tables, the graph takes `position` [S, D]. */
export function embedPatches(
  s: Scope,
  latent: Value,
  grid: Grid,
  config: Pick<MMDiTConfig, 'width' | 'patchSize' | 'positionMax'>,
  positions: PositionTables,
): Value {
  const { width, patchSize } = config
  const map = s.lowering.featureMap(toActivations(s, latent))
  const patches = conv2d(s.at('x_embedder', 'proj'), map, width, patchesOf(patchSize))
  const position = positions
    ? positionsOf(s, positions, grid, config)
    : s.graph.input('position', 'float32', ['S', width])
  s.drop('pos_embed', [1, config.positionMax ** 2, width])
  return ops.add(s.lowering.tokens(patches, 'S'), toActivations(s, position))
}

export const patchesOf = (size: number) => ({ kernel: size, stride: size, padding: 0 })

export type Modulations = (module: string, suffix: string) => Modulation & { gate: ModulationVector }

/** Looks up `shift`, `scale` and `gate` of a module in the modulation [B, M]. */
export function addModulationTable(
  s: Scope,
  modulation: Value,
  { width }: Pick<MMDiTConfig, 'width'>,
  layout: ModulationLayout,
): Modulations {
  const keys = layout.flatMap(({ module, names }) => names.map((name) => `${module} ${name}`))
  const vectors = s.lowering.modulationVectors(modulation, width)
  const table = new Map(keys.map((key, i) => [key, vectors[i]!]))
  return (module, suffix) => {
    const [shift, scale, gate] = ['shift', 'scale', 'gate'].map((name) => table.get(`${module} ${name}${suffix}`))
    return { shift: shift!, scale: scale!, gate: gate! }
  }
}

/** mmditx.py `JointBlock` */
function jointBlock(
  s: Scope,
  x: Stream,
  context: Stream,
  m: Modulations,
  config: MMDiTConfig,
  { last, dual }: BlockShape,
) {
  const xBlock = s.at('x_block')
  const contextBlock = s.at('context_block')
  const msa = m(xBlock.path, '_msa')
  const msa2 = m(xBlock.path, '_msa2')
  const contextMsa = m(contextBlock.path, last ? '' : '_msa')

  const attn = xBlock.at('attn')
  const contextAttn = contextBlock.at('attn')
  const xNorm = modulate(xBlock, x, dual ? [msa, msa2] : [msa], EPSILON, attn.at('qkv'))
  const contextNorm = modulate(contextBlock, context, [contextMsa], EPSILON, contextAttn.at('qkv'))
  probe(xBlock, xNorm.stream)
  probe(contextBlock, contextNorm.stream)
  const options = { ...config, epsilon: EPSILON }
  const image = { s: attn, x: xNorm.normed[0]! }
  const text = { s: contextAttn, x: contextNorm.normed[0]!, queries: !last }
  const [xJoint, contextJoint] = attend([image, text], options)

  x = addTo(xNorm.stream, branch(attn.at('proj'), xJoint!, config.width, msa.gate))
  if (dual) {
    const own = xBlock.at('attn2') // attention over the image alone
    const [y] = attend([{ s: own, x: xNorm.normed[1]! }], options)
    x = addTo(x, branch(own.at('proj'), y!, config.width, msa2.gate))
  }
  x = mlp(xBlock, x, m(xBlock.path, '_mlp'))
  if (last) return { x, context } // context-pre-only: the text stream ends here
  const gated = branch(contextAttn.at('proj'), contextJoint!, config.width, contextMsa.gate)
  context = addTo(contextNorm.stream, gated)
  return { x, context: mlp(contextBlock, context, m(contextBlock.path, '_mlp')) }
}

export function mlp(s: Scope, x: Stream, modulation: Modulation & { gate: ModulationVector }): Stream {
  const fc1 = s.at('mlp', 'fc1')
  const { stream, normed } = modulate(s, x, [modulation], EPSILON, fc1)
  const hidden = linear(fc1, normed[0]!, outputWidth(fc1), { activation: 'gelu_tanh' })
  return addTo(stream, branch(s.at('mlp', 'fc2'), hidden, widthOf(stream.value), modulation.gate))
}

type Grid = { rows: Value; columns: Value }

/** Numbers of patch rows and columns, int64 [1] each. */
export function patchGrid(latent: Value, patchSize: number): Grid {
  const patches = (axis: number) => ops.divide(ops.shapeOf(latent, axis, axis + 1), ops.int64(latent, [patchSize]))
  return { rows: patches(2), columns: patches(3) }
}

/** The middle of the position table for this grid, row by row [S, D]. mmditx.py `MMDiTX.cropped_pos_embed` */
function positionsOf(
  s: Scope,
  tables: NonNullable<PositionTables>,
  grid: Grid,
  { width, positionMax }: Pick<MMDiTConfig, 'width' | 'positionMax'>,
): Value {
  const middle = (name: string, data: Float32Array, count: Value, axis: string) => {
    const source = { kind: 'bytes', data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }
    const table = s.graph.weight(name, 'float32', [positionMax, width / 2], source)
    const start = ops.divide(ops.subtract(ops.int64(count, [positionMax]), count), ops.int64(count, [2]))
    return toActivations(s, ops.slice(table, start, ops.add(start, count), 0, axis))
  }
  const half = ops.int64(grid.rows, [width / 2])
  const lengths = ops.concat([grid.rows, grid.columns, half], 0, 3)
  const across = ops.expand(middle('pos_embed.columns', tables.columns, grid.columns, 'w'), lengths, [
    'h',
    'w',
    width / 2,
  ])
  const rows = ops.reshape(middle('pos_embed.rows', tables.rows, grid.rows, 'h'), ['h', 1, width / 2])
  const down = ops.expand(rows, lengths, ['h', 'w', width / 2])
  return ops.reshape(ops.concat([across, down], 2, width), ['S', width])
}

/** tokens [B, S, p·p·C] → [B, C, h, w]. mmditx.py `MMDiTX.unpatchify` */
function unpatchify(tokens: Value, latent: Value, grid: Grid, { patchSize, outChannels }: MMDiTConfig): Value {
  const [batch, , h, w] = latent.shape
  const depth = patchSize * patchSize * outChannels
  const lengths = ops.concat([ops.shapeOf(latent, 0, 1), ops.int64(latent, [depth]), grid.rows, grid.columns], 0, 4)
  const map = ops.reshapeTo(ops.transpose(tokens, [0, 2, 1]), lengths, [batch!, depth, 'rows', 'columns'])
  return ops.depthToSpace(map, patchSize, [batch!, outChannels, h!, w!])
}
