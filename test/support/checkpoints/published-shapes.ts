// Names and shapes of the published SD3.5 checkpoints, derived from the architectures independently of the compiler, so that the compiler
// can be tested against them. Stability-AI/sd3.5 mmditx.py @ fbf8f48; diffusers transformer_sd3.py @ 58eb52c.

export type Shapes = Map<string, readonly number[]>
export type Variant = { depth: number; positions: number; dualAttention: number }

export const VARIANTS = {
  large: { depth: 38, positions: 192, dualAttention: 0 },
  'large-turbo': { depth: 38, positions: 192, dualAttention: 0 },
  medium: { depth: 24, positions: 384, dualAttention: 13 },
} as const satisfies Record<string, Variant>

const HEAD = 64
const LATENT = 16

/** The transformer with Stability's names, without a prefix. The width does not depend on `depth`. */
export function createStabilityTransformer(variant: Variant, depth: number = variant.depth): Shapes {
  const shapes: Shapes = new Map()
  const width = variant.depth * HEAD
  shapes.set('pos_embed', [1, variant.positions ** 2, width])
  shapes.set('x_embedder.proj.weight', [width, LATENT, 2, 2]).set('x_embedder.proj.bias', [width])
  addEmbedders(
    shapes,
    ['t_embedder.mlp.0', 't_embedder.mlp.2', 'y_embedder.mlp.0', 'y_embedder.mlp.2', 'context_embedder'],
    width,
  )
  for (let i = 0; i < depth; i++) {
    const last = i === depth - 1
    const dual = i < variant.dualAttention
    const image = `joint_blocks.${i}.x_block`
    const text = `joint_blocks.${i}.context_block`
    for (const attention of [`${image}.attn`, `${text}.attn`, ...(dual ? [`${image}.attn2`] : [])]) {
      linear(shapes, `${attention}.qkv`, 3 * width, width)
      shapes.set(`${attention}.ln_q.weight`, [HEAD]).set(`${attention}.ln_k.weight`, [HEAD])
      if (!(last && attention.startsWith(text))) linear(shapes, `${attention}.proj`, width, width)
    }
    linear(shapes, `${image}.adaLN_modulation.1`, (dual ? 9 : 6) * width, width)
    linear(shapes, `${text}.adaLN_modulation.1`, (last ? 2 : 6) * width, width)
    for (const stream of last ? [image] : [image, text]) {
      linear(shapes, `${stream}.mlp.fc1`, 4 * width, width)
      linear(shapes, `${stream}.mlp.fc2`, width, 4 * width)
    }
  }
  linear(shapes, 'final_layer.linear', 4 * LATENT, width)
  return linear(shapes, 'final_layer.adaLN_modulation.1', 2 * width, width)
}

/** The transformer with diffusers' names. */
export function createDiffusersTransformer(variant: Variant): Shapes {
  const shapes: Shapes = new Map()
  const width = variant.depth * HEAD
  shapes.set('pos_embed.pos_embed', [1, variant.positions ** 2, width])
  shapes.set('pos_embed.proj.weight', [width, LATENT, 2, 2]).set('pos_embed.proj.bias', [width])
  const time = 'time_text_embed.timestep_embedder.linear'
  const pooled = 'time_text_embed.text_embedder.linear'
  addEmbedders(shapes, [`${time}_1`, `${time}_2`, `${pooled}_1`, `${pooled}_2`, 'context_embedder'], width)
  for (let i = 0; i < variant.depth; i++) {
    const last = i === variant.depth - 1
    const dual = i < variant.dualAttention
    const block = `transformer_blocks.${i}`
    const square = [
      'attn.to_q',
      'attn.to_k',
      'attn.to_v',
      'attn.add_q_proj',
      'attn.add_k_proj',
      'attn.add_v_proj',
      'attn.to_out.0',
    ]
    if (!last) square.push('attn.to_add_out')
    if (dual) square.push('attn2.to_q', 'attn2.to_k', 'attn2.to_v', 'attn2.to_out.0')
    for (const name of square) linear(shapes, `${block}.${name}`, width, width)
    const norms = ['attn.norm_q', 'attn.norm_k', 'attn.norm_added_q', 'attn.norm_added_k']
    if (dual) norms.push('attn2.norm_q', 'attn2.norm_k')
    for (const name of norms) shapes.set(`${block}.${name}.weight`, [HEAD])
    linear(shapes, `${block}.norm1.linear`, (dual ? 9 : 6) * width, width)
    linear(shapes, `${block}.norm1_context.linear`, (last ? 2 : 6) * width, width)
    for (const stream of last ? ['ff'] : ['ff', 'ff_context']) {
      linear(shapes, `${block}.${stream}.net.0.proj`, 4 * width, width)
      linear(shapes, `${block}.${stream}.net.2`, width, 4 * width)
    }
  }
  linear(shapes, 'proj_out', 4 * LATENT, width)
  return linear(shapes, 'norm_out.linear', 2 * width, width)
}

/** A CLIP text encoder with the names of transformers. The single file of CLIP-L has no projection. */
export function clipText(width: number, layers: number, projection: boolean): Shapes {
  const shapes: Shapes = new Map()
  shapes.set('text_model.embeddings.token_embedding.weight', [49408, width])
  shapes.set('text_model.embeddings.position_embedding.weight', [77, width])
  for (let i = 0; i < layers; i++) {
    const layer = `text_model.encoder.layers.${i}`
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj'])
      linear(shapes, `${layer}.self_attn.${name}`, width, width)
    linear(shapes, `${layer}.mlp.fc1`, 4 * width, width)
    linear(shapes, `${layer}.mlp.fc2`, width, 4 * width)
    norm(shapes, `${layer}.layer_norm1`, width)
    norm(shapes, `${layer}.layer_norm2`, width)
  }
  norm(shapes, 'text_model.final_layer_norm', width)
  return projection ? shapes.set('text_projection.weight', [width, width]) : shapes
}

/** The encoder of T5 v1.1 XXL. The single file contains the embedding twice. */
export function t5Encoder(embeddingTwice: boolean): Shapes {
  const width = 4096
  const hidden = 10240
  const shapes: Shapes = new Map([['shared.weight', [32128, width]]])
  if (embeddingTwice) shapes.set('encoder.embed_tokens.weight', [32128, width])
  for (let i = 0; i < 24; i++) {
    const [attention, feedForward] = [`encoder.block.${i}.layer.0`, `encoder.block.${i}.layer.1`]
    for (const name of ['q', 'k', 'v', 'o']) shapes.set(`${attention}.SelfAttention.${name}.weight`, [width, width])
    if (i === 0) shapes.set(`${attention}.SelfAttention.relative_attention_bias.weight`, [32, 64])
    for (const name of ['wi_0', 'wi_1']) shapes.set(`${feedForward}.DenseReluDense.${name}.weight`, [hidden, width])
    shapes.set(`${feedForward}.DenseReluDense.wo.weight`, [width, hidden])
    shapes.set(`${attention}.layer_norm.weight`, [width]).set(`${feedForward}.layer_norm.weight`, [width])
  }
  return shapes.set('encoder.final_layer_norm.weight', [width])
}

function addEmbedders(shapes: Shapes, [time1, time2, pooled1, pooled2, context]: string[], width: number): void {
  linear(shapes, time1!, width, 256)
  linear(shapes, time2!, width, width)
  linear(shapes, pooled1!, width, 2048)
  linear(shapes, pooled2!, width, width)
  linear(shapes, context!, width, 4096)
}

function linear(shapes: Shapes, name: string, rows: number, columns: number): Shapes {
  return shapes.set(`${name}.weight`, [rows, columns]).set(`${name}.bias`, [rows])
}

function norm(shapes: Shapes, name: string, width: number): Shapes {
  return shapes.set(`${name}.weight`, [width]).set(`${name}.bias`, [width])
}
