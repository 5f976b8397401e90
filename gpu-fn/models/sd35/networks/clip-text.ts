// CLIP's text encoder: CLIP-L and OpenCLIP bigG. arXiv 2103.00020; transformers modeling_clip.py `CLIPTextModelWithProjection`.
// B batch · S tokens · D width · H attention heads
import type { Graph, Value } from '../../../compile/graph/graph.ts'
import type { Activation, Stream } from '../../../compile/graph/layer-types.ts'
import {
  addTo,
  attention,
  branch,
  embedding,
  linear,
  outputWidth,
  parameter,
  streamNorm,
} from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'

/** OpenCLIP's parameter, which is multiplied from the right. */
export const OPEN_CLIP_PROJECTION = 'text_projection'

export type ClipTextConfig = {
  readonly width: number
  readonly layers: number
  readonly heads: number
  readonly tokens: number
  readonly vocabulary: number
  readonly pooledWidth: number
  readonly activation: Activation
  readonly epsilon: number
  /** The token whose state is pooled; null is the largest id, as in CLIP's first configurations (eos_token_id 2). */
  readonly endToken: number | null
}

/** Graph `clip_l` or `clip_g`: input_ids [B, S] → hidden [B, S, D] of the layer before the last, without final norm; pooled [B, D']. */
export function clipText(s: Scope, config: ClipTextConfig): Graph {
  const { graph } = s
  const { tokens, layers, epsilon, endToken, vocabulary, width } = config
  const ids = graph.input('input_ids', 'int64', ['B', tokens])
  const model = s.at('text_model')
  const positions = parameter(model.at('embeddings', 'position_embedding').enter(), 'weight', [tokens, width])
  const embedded = ops.add(embedding(model.at('embeddings', 'token_embedding'), ids, vocabulary, width), positions)
  let x: Stream = { value: embedded, deferred: [] } // [B, S, D]
  let penultimate = embedded
  for (let i = 0; i < layers; i++) {
    const layer = encoderLayer(model.at('encoder', 'layers', i), x, config)
    penultimate = layer.input
    x = layer.output
  }
  const { normed } = streamNorm(model.at('final_layer_norm'), x, epsilon)
  const pooled = ops.gatherRow(normed, endPosition(ids, endToken)) // [B, D]
  graph.output('hidden', ops.cast(penultimate, 'float32'))
  graph.output('pooled', ops.cast(project(s, pooled), 'float32'))
  return graph
}

/** The pooled state with the projection of transformers [D', D] or of OpenCLIP [D, D'], or without one. */
function project(s: Scope, pooled: Value): Value {
  const module = s.at('text_projection')
  if (module.has('weight')) return linear(module, pooled, outputWidth(module), { bias: false })
  if (!s.has(OPEN_CLIP_PROJECTION)) return pooled
  const [width, out] = s.shape(OPEN_CLIP_PROJECTION) as [number, number]
  return ops.matmulTransposed(pooled, ops.transpose(parameter(s, OPEN_CLIP_PROJECTION, [width, out]), [1, 0]))
}

/** Index of the first end token of each prompt [B, 1]. */
function endPosition(ids: Value, endToken: number | null): Value {
  const hits = endToken === null ? ids : ops.equal(ids, ops.int64(ids, [endToken]))
  return ops.argMax(ops.cast(hits, 'float32'), 1)
}

/** modeling_clip.py `CLIPEncoderLayer` */
function encoderLayer(s: Scope, x: Stream, { heads, epsilon, activation, width }: ClipTextConfig) {
  const { value: input, normed } = streamNorm(s.at('layer_norm1'), x, epsilon)
  const modules = ['q_proj', 'k_proj', 'v_proj'].map((name) => s.at('self_attn', name))
  const [q, k, v] = modules.map((module) => linear(module, normed, width, { bias: false })) as [Value, Value, Value]
  const biases = modules.map((module) => parameter(module.enter(), 'bias', [width]))
  const attended = attention({ q, k, v }, { heads, causal: true, qkvBias: ops.concat(biases, 0, 3 * width) })
  const y = addTo({ value: input, deferred: [] }, branch(s.at('self_attn', 'out_proj'), attended, width))
  const middle = streamNorm(s.at('layer_norm2'), y, epsilon)
  const fc1 = s.at('mlp', 'fc1')
  const hidden = linear(fc1, middle.normed, outputWidth(fc1), { activation })
  return { input, output: addTo({ value: middle.value, deferred: [] }, branch(s.at('mlp', 'fc2'), hidden, width)) }
}
