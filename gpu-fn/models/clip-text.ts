// CLIP's text encoder: CLIP-L and OpenCLIP bigG. arXiv 2103.00020; transformers modeling_clip.py `CLIPTextModelWithProjection`.
// B batch · S tokens · D width · H attention heads
import type { Graph, Value } from '../compile/graph.ts'
import { type Activation, attention, embedding, layerNorm, linear, outputWidth, parameter } from '../compile/nn.ts'
import * as ops from '../compile/ops.ts'
import type { Scope } from '../compile/scope.ts'

export type ClipTextConfig = {
  readonly width: number
  readonly layers: number
  readonly heads: number
  readonly tokens: number
  readonly vocabulary: number
  readonly activation: Activation
  readonly epsilon: number
  /** The token whose state is pooled; null takes the largest id, as CLIP's first configurations (eos_token_id 2) do. */
  readonly endToken: number | null
}

/** Graph `clip_l` or `clip_g`: input_ids [B, S] → hidden [B, S, D] of the layer before the last, without final norm; pooled [B, D']. */
export function clipText(s: Scope, config: ClipTextConfig): Graph {
  const { graph } = s
  const { tokens, layers, epsilon, endToken, vocabulary, width } = config
  const ids = graph.input('input_ids', 'int64', ['B', tokens])
  const model = s.at('text_model')
  const positions = parameter(model.at('embeddings', 'position_embedding').enter(), 'weight', [tokens, width])
  let x = ops.add(embedding(model.at('embeddings', 'token_embedding'), ids, vocabulary, width), positions) // [B, S, D]
  let penultimate = x
  for (let i = 0; i < layers; i++) {
    penultimate = x
    x = encoderLayer(model.at('encoder', 'layers', i), x, config)
  }
  const normed = layerNorm(model.at('final_layer_norm'), x, epsilon)
  const pooled = ops.gatherRow(normed, endPosition(ids, endToken)) // [B, D]
  graph.output('hidden', ops.cast(penultimate, 'float32'))
  graph.output(
    'pooled',
    ops.cast(
      s.has('text_projection.weight')
        ? linear(s.at('text_projection'), pooled, outputWidth(s.at('text_projection')), { bias: false })
        : pooled,
      'float32',
    ),
  )
  return graph
}

/** Index of the first end token of each prompt [B, 1]. */
function endPosition(ids: Value, endToken: number | null): Value {
  const hits = endToken === null ? ids : ops.equal(ids, ops.int64(ids, [endToken]))
  return ops.argMax(ops.cast(hits, 'float32'), 1)
}

/** modeling_clip.py `CLIPEncoderLayer` */
function encoderLayer(s: Scope, x: Value, { heads, epsilon, activation, width }: ClipTextConfig): Value {
  const normed = layerNorm(s.at('layer_norm1'), x, epsilon)
  const project = (name: string, input: Value) => linear(s.at('self_attn', name), input, width)
  const qkv = { q: project('q_proj', normed), k: project('k_proj', normed), v: project('v_proj', normed) }
  const y = ops.add(x, project('out_proj', attention(qkv, { heads, causal: true })))
  const fc1 = s.at('mlp', 'fc1')
  const hidden = linear(fc1, layerNorm(s.at('layer_norm2'), y, epsilon), outputWidth(fc1), { activation })
  return ops.add(y, linear(s.at('mlp', 'fc2'), hidden, width))
}
