// Every parameter of the networks under Stability's names. Gains keep activations near 1, so that no output is degenerate.
import { createConvolution, embedding, linear, norm, type Parameter } from './parameters.ts'
import type { ClipShape, T5Shape, TransformerShape } from './variants.ts'

const CLIP_TOKENS = 77
const TIMESTEP_WIDTH = 256
const MLP_RATIO = 4

/** MMDiT: mmditx.py of Stability-AI/sd3.5. `joint` and `pooled` are the widths of the text inputs. */
export function createTransformerParameters(shape: TransformerShape, joint: number, pooled: number): Parameter[] {
  const width = shape.heads * shape.headDim
  const patchArea = shape.patch ** 2
  return [
    createPositionTable(shape, width),
    ...scaleDeviations(createConvolution('x_embedder.proj', shape.channels, width, shape.patch), shape.inputScale),
    ...linear('t_embedder.mlp.0', TIMESTEP_WIDTH, width),
    ...linear('t_embedder.mlp.2', width, width),
    ...linear('y_embedder.mlp.0', pooled, width),
    ...linear('y_embedder.mlp.2', width, width),
    ...scaleDeviations(linear('context_embedder', joint, width), shape.inputScale),
    ...Array.from({ length: shape.depth }, (_, index) => jointBlock(shape, width, index)).flat(),
    ...linear('final_layer.adaLN_modulation.1', width, 2 * width),
    ...linear('final_layer.linear', width, patchArea * shape.channels),
  ]
}

function jointBlock(shape: TransformerShape, width: number, index: number): Parameter[] {
  const at = `joint_blocks.${index}`
  const dual = shape.dual.includes(index)
  const last = index === shape.depth - 1
  return [
    ...attention(`${at}.x_block.attn`, shape, width, true),
    ...(dual ? attention(`${at}.x_block.attn2`, shape, width, true) : []),
    ...listMlp(`${at}.x_block.mlp`, width),
    ...linear(`${at}.x_block.adaLN_modulation.1`, width, (dual ? 9 : 6) * width),
    ...attention(`${at}.context_block.attn`, shape, width, !last),
    ...(last ? [] : listMlp(`${at}.context_block.mlp`, width)),
    ...linear(`${at}.context_block.adaLN_modulation.1`, width, (last ? 2 : 6) * width),
  ]
}

function attention(at: string, shape: TransformerShape, width: number, projected: boolean): Parameter[] {
  return [
    ...scaleDeviations(linear(`${at}.qkv`, width, 3 * width), Math.sqrt(shape.inputScale)),
    ...(shape.qkNorm ? [...norm(`${at}.ln_q`, shape.headDim, false), ...norm(`${at}.ln_k`, shape.headDim, false)] : []),
    ...(projected ? linear(`${at}.proj`, width, width) : []),
  ]
}

const listMlp = (at: string, width: number) => [
  ...linear(`${at}.fc1`, width, MLP_RATIO * width),
  ...linear(`${at}.fc2`, MLP_RATIO * width, width),
]

const scaleDeviations = (parameters: Parameter[], scale: number) =>
  parameters.map((p) => ({ ...p, deviation: p.deviation * scale }))

function createPositionTable({ positions, positionTable, inputScale }: TransformerShape, width: number): Parameter {
  const shape = [1, positions ** 2, width]
  const random = { name: 'pos_embed', shape, mean: 0, deviation: 0.7 * inputScale }
  return positionTable === 'random' ? random : { ...random, table: createSincosTable(positions, width) }
}

/** diffusers' `get_2d_sincos_pos_embed` with base size 64: [sin x | cos x | sin y | cos y], a quarter of `width` each. */
function createSincosTable(side: number, width: number): Float32Array {
  const quarter = width / 4
  const table = new Float32Array(side * side * width)
  const axis = Float32Array.from({ length: side }, (_, i) => i / Math.fround(side / 64))
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const base = (row * side + column) * width
      for (let k = 0; k < quarter; k++) {
        const frequency = 1 / 10000 ** (k / quarter)
        table[base + k] = Math.sin(axis[column]! * frequency)
        table[base + quarter + k] = Math.cos(axis[column]! * frequency)
        table[base + 2 * quarter + k] = Math.sin(axis[row]! * frequency)
        table[base + 3 * quarter + k] = Math.cos(axis[row]! * frequency)
      }
    }
  }
  return table
}

/** transformers' `CLIPTextModelWithProjection`. */
export function createClipParameters(shape: ClipShape): Parameter[] {
  const { width } = shape
  return [
    ...embedding('text_model.embeddings.token_embedding.weight', shape.vocabulary, width, shape.inputScale),
    ...embedding('text_model.embeddings.position_embedding.weight', CLIP_TOKENS, width, 0.3 * shape.inputScale),
    ...Array.from({ length: shape.depth }, (_, index) => {
      const at = `text_model.encoder.layers.${index}`
      return [
        ...['q_proj', 'k_proj', 'v_proj', 'out_proj'].flatMap((name) =>
          linear(`${at}.self_attn.${name}`, width, width),
        ),
        ...norm(`${at}.layer_norm1`, width, true),
        ...linear(`${at}.mlp.fc1`, width, MLP_RATIO * width),
        ...linear(`${at}.mlp.fc2`, MLP_RATIO * width, width),
        ...norm(`${at}.layer_norm2`, width, true),
      ]
    }).flat(),
    ...norm('text_model.final_layer_norm', width, true),
    ...linear('text_projection', width, shape.projection, 1, 0),
  ]
}

/** transformers' `T5EncoderModel` with gated GELU. T5 does not divide its scores by √headDim, so the queries are small. */
export function createT5Parameters(shape: T5Shape): Parameter[] {
  const inner = shape.heads * shape.headDim
  const blocks = Array.from({ length: shape.depth }, (_, index) => {
    const [self, dense] = [0, 1].map((layer) => `encoder.block.${index}.layer.${layer}`)
    const attention = `${self}.SelfAttention`
    const bias = embedding(`${attention}.relative_attention_bias.weight`, shape.buckets, shape.heads, 0.7)
    return [
      ...linear(`${attention}.q`, shape.width, inner, 1 / Math.sqrt(shape.headDim), 0),
      ...linear(`${attention}.k`, shape.width, inner, 1, 0),
      ...linear(`${attention}.v`, shape.width, inner, 1, 0),
      ...linear(`${attention}.o`, inner, shape.width, 1, 0),
      ...(index === 0 ? bias : []),
      ...norm(`${self}.layer_norm`, shape.width, false),
      ...linear(`${dense}.DenseReluDense.wi_0`, shape.width, shape.feedForward, 1, 0),
      ...linear(`${dense}.DenseReluDense.wi_1`, shape.width, shape.feedForward, 1, 0),
      ...linear(`${dense}.DenseReluDense.wo`, shape.feedForward, shape.width, 1, 0),
      ...norm(`${dense}.layer_norm`, shape.width, false),
    ]
  })
  return [
    ...embedding('shared.weight', shape.vocabulary, shape.width, shape.inputScale),
    ...blocks.flat(),
    ...norm('encoder.final_layer_norm', shape.width, false),
  ]
}
