// T5 v1.1's encoder. arXiv 1910.10683, 2002.05202 (gated GELU); transformers modeling_t5.py `T5EncoderModel`.
// B batch · L tokens · D width · H attention heads
import type { Graph, Value } from '../../../compile/graph/graph.ts'
import {
  attention,
  embedding,
  linear,
  outputWidth,
  rmsNorm,
  toActivations,
  widthOf,
} from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'

export type T5Config = {
  readonly width: number
  readonly layers: number
  readonly heads: number
  readonly headWidth: number
  readonly vocabulary: number
  readonly buckets: number
  readonly maxDistance: number
  readonly epsilon: number
}

/** Maximum number of tokens of a prompt, which is the limit of SD3.5's tokenizer. */
export const T5_MAX_TOKENS = 512

/** Layers per graph. The published encoder has four graphs, each as large as CLIP-G, so that a small GPU can hold one at a time. */
const LAYERS = 6

/**
 * Unit of the feed-forward layers' activations, the only ones that exceed float16 (transformers' `T5PreTrainedModel` keeps `wo` in float32
 * for this reason). A power of two is exact.
 */
const UNIT = 64

/** The layers [from, to) of each graph. */
export const splitT5 = ({ layers }: T5Config, each = LAYERS): [from: number, to: number][] =>
  Array.from({ length: Math.ceil(layers / each) }, (_, i) => [i * each, Math.min(layers, (i + 1) * each)])

/**
 * Graphs `t5`, `t5_2` …: input_ids [B, L], without an attention mask → hidden [B, L, D]. Consecutive graphs exchange the residual stream
 * [B, L, D] as `residual_<first layer of the second>`.
 */
export function t5Encoder(s: Scope, config: T5Config, [from, to]: [number, number] = [0, config.layers]): Graph {
  const { graph } = s
  const { layers, epsilon, width } = config
  // The residual stream exceeds float16 and loses precision in bfloat16, so it is float32 on every target.
  let x: Value // [B, L, D]
  let tokens: Value // [B, L] or [B, L, D]
  if (from === 0) {
    tokens = graph.input('input_ids', 'int64', ['B', 'L'])
    x = ops.cast(embedding(s.at('shared'), tokens, config.vocabulary, width), 'float32')
  } else {
    tokens = graph.input(`residual_${from}`, 'float32', ['B', 'L', width])
    x = tokens
  }
  const biases = s.at('encoder', 'block', 0, 'layer', 0, 'SelfAttention', 'relative_attention_bias')
  const bias = addPositionBias(biases, tokens, config, from > 0)
  for (let i = from; i < to; i++) {
    const block = s.at('encoder', 'block', i)
    const attn = block.at('layer', 0)
    x = ops.add(
      x,
      ops.cast(
        selfAttention(attn.at('SelfAttention'), rmsNorm(attn.at('layer_norm'), x, epsilon), bias, config),
        'float32',
      ),
    )
    const feed = block.at('layer', 1)
    const forward = gatedGelu(feed.at('DenseReluDense'), rmsNorm(feed.at('layer_norm'), x, epsilon))
    x = ops.add(x, scaleBy(ops.cast(forward, 'float32'), UNIT))
  }
  if (to < layers) graph.output(`residual_${to}`, x)
  else graph.output('hidden', ops.cast(rmsNorm(s.at('encoder', 'final_layer_norm'), x, epsilon), 'float32'))
  return graph
}

/** T5's matrices have no biases. */
const project = (s: Scope, x: Value, out: number) => linear(s, x, out, { bias: false })

/** modeling_t5.py `T5Attention`: no 1/√d. */
function selfAttention(s: Scope, x: Value, bias: Value, { heads, headWidth, width }: T5Config): Value {
  const inner = heads * headWidth
  const qkv = { q: project(s.at('q'), x, inner), k: project(s.at('k'), x, inner), v: project(s.at('v'), x, inner) }
  return project(s.at('o'), attention(qkv, { heads, scale: 1, bias }), width)
}

/** modeling_t5.py `T5DenseGatedActDense`, in units of `UNIT`. */
function gatedGelu(s: Scope, x: Value): Value {
  const hidden = outputWidth(s.at('wi_0'))
  const gate = linear(s.at('wi_0'), x, hidden, { activation: 'gelu_tanh', bias: false })
  return project(s.at('wo'), ops.multiply(scaleBy(gate, 1 / UNIT), project(s.at('wi_1'), x, hidden)), widthOf(x))
}

const scaleBy = (x: Value, factor: number) => ops.multiply(x, ops.scalar(x, factor))

/** The learned bias of every pair of positions [1, H, L, L], by distance. Every graph has a copy of the table. */
function addPositionBias(s: Scope, ids: Value, { buckets, maxDistance, heads }: T5Config, again: boolean): Value {
  s.enter()
  const distances = Array.from({ length: 2 * T5_MAX_TOKENS - 1 }, (_, i) => i - (T5_MAX_TOKENS - 1))
  const byDistance = ops.gather(
    s.parameter('weight', [buckets, heads], { again }),
    ops.int64(
      ids,
      distances.map((d) => bucketOf(d, buckets, maxDistance)),
    ),
  ) // [1023, H]
  const position = ops.range(ops.shapeOf(ids, 1, 2), 'L')
  const distance = ops.subtract(ops.reshape(position, [1, 'L']), ops.reshape(position, ['L', 1])) // key − query [L, L]
  const bias = ops.gather(byDistance, ops.add(distance, ops.int64(ids, [T5_MAX_TOKENS - 1]))) // [L, L, H]
  return toActivations(s, ops.reshape(ops.transpose(bias, [2, 0, 1]), [1, heads, 'L', 'L']))
}

/** modeling_t5.py `T5Attention._relative_position_bucket`, both directions, in its float32 arithmetic. */
function bucketOf(distance: number, buckets: number, maxDistance: number): number {
  const half = Math.floor(buckets / 2)
  const exact = Math.floor(half / 2)
  const n = Math.abs(distance)
  const base = distance > 0 ? half : 0
  if (n < exact) return base + n
  const { fround } = Math
  const ratio = fround(fround(Math.log(fround(n / exact))) / fround(Math.log(maxDistance / exact)))
  return base + Math.min(half - 1, exact + Math.floor(fround(ratio * (half - exact))))
}
