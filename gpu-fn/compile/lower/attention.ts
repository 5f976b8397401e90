// Joint attention in onnxruntime's operators: projections, norms of the heads, and the concatenated tokens of both streams.
import type { Value } from '../graph/graph.ts'
import type { JointAttentionOptions } from '../graph/layer-types.ts'
import { attention, headNorm, kvLinear, qkvLinear } from '../graph/nn.ts'
import * as ops from '../graph/ops.ts'
import type { AttentionInput, Lowering } from '../graph/scope.ts'

/** Attention over the tokens of all parts; the text part may be without queries, as in SD3.5's last block. */
export const attendByOperators: Lowering['attend'] = (parts, options) => {
  const [image, text] = parts
  const own = projectAndNorm(image, options)
  if (!text) return [attention({ q: own.q!, k: own.k, v: own.v }, options)]
  const other = projectAndNorm(text, options)
  const join = (a: Value, b: Value) => ops.concat([a, b], 1, 'S+L') // [B, S + L, D]
  const q = other.q ? join(own.q!, other.q) : own.q!
  const y = attention({ q, k: join(own.k, other.k), v: join(own.v, other.v) }, options)
  return other.q ? [tokensOf(y, image.x, 'start'), tokensOf(y, text.x, 'end')] : [y]
}

function projectAndNorm(
  { s, x, queries = true }: AttentionInput,
  { width, heads, qkNorm, epsilon }: JointAttentionOptions,
) {
  const { q, k, v } = queries ? qkvLinear(s.at('qkv'), x, width) : { q: null, ...kvLinear(s.at('qkv'), x, width) }
  if (!qkNorm) return { q, k, v }
  if (!q) s.drop('ln_q.weight', [width / heads]) // the last block does not use the text's queries
  return {
    q: q && headNorm(s.at('ln_q'), q, heads, epsilon),
    k: headNorm(s.at('ln_k'), k, heads, epsilon),
    v,
  }
}

/** The tokens of the image (start) or of the text (end) in a joint sequence. */
function tokensOf(joint: Value, like: Value, side: 'start' | 'end'): Value {
  const length = ops.shapeOf(like, 1, 2)
  const zero = ops.int64(joint, [0])
  const far = ops.int64(joint, [Number.MAX_SAFE_INTEGER])
  const [from, to] = side === 'start' ? [zero, length] : [ops.subtract(zero, length), far]
  return ops.slice(joint, from, to, 1, like.shape[1]!)
}
