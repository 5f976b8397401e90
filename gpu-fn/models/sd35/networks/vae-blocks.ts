// The blocks of SD3.5's autoencoder. Stability-AI/sd3.5 sd3_impls.py @ fbf8f48.
// B batch · C channels · h, w size of the map · feature maps are in the target's layout
import type { Value } from '../../../compile/graph/graph.ts'
import type { FeatureMap } from '../../../compile/graph/layer-types.ts'
import {
  applyDeferredAndNorm,
  attention,
  branchConv2d,
  conv2d,
  groupNorm,
  linear,
  outputWidth,
} from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'

export type VaeConfig = {
  readonly latentChannels: number
  /** Number of resolutions. The decoder doubles the size after each but the last, and the encoder halves it. */
  readonly levels: number
  /** Blocks per level of the decoder. */
  readonly blocksPerLevel: number
  /** Blocks per level of the encoder; null if there is no encoder. */
  readonly encoderBlocksPerLevel: number | null
  readonly groups: number
  readonly scalingFactor: number
  readonly shiftFactor: number
}

export const EPSILON = 1e-6
export const ONE_BY_ONE = { kernel: 1, padding: 0 }

/** The blocks at the lowest resolution. */
export function middle(s: Scope, x: FeatureMap, groups: number): FeatureMap {
  const first = residualBlock(s.at('block_1'), x, groups)
  const attended = s.has('attn_1.q.weight') ? attentionBlock(s.at('attn_1'), first, groups) : first
  return residualBlock(s.at('block_2'), attended, groups)
}

/** sd3_impls.py `ResnetBlock` */
export function residualBlock(s: Scope, x: FeatureMap, groups: number): FeatureMap {
  const out = outputWidth(s.at('conv1'))
  const options = { groups, epsilon: EPSILON, silu: true }
  const { map, normed } = applyDeferredAndNorm(s.at('norm1'), x, options)
  const h = branchConv2d(s.at('conv1'), normed, out)
  const y = branchConv2d(s.at('conv2'), groupNorm(s.at('norm2'), h, options), out)
  const same = s.lowering.channels(map) === out
  return s.lowering.addSkip(same ? map : conv2d(s.at('nin_shortcut'), map, out, ONE_BY_ONE), y)
}

/** Self-attention over all positions with one head. sd3_impls.py `AttnBlock` */
function attentionBlock(s: Scope, x: FeatureMap, groups: number): FeatureMap {
  const channels = s.lowering.channels(x.value)
  const { map, normed } = applyDeferredAndNorm(s.at('norm'), x, { groups, epsilon: EPSILON, silu: false })
  const tokens = s.lowering.tokens(normed, 'h*w') // [B, h·w, C]
  const project = (name: string, input: Value) => linear(s.at(name), input, channels)
  const qkv = { q: project('q', tokens), k: project('k', tokens), v: project('v', tokens) }
  return { value: ops.add(map, s.lowering.fromTokens(project('proj_out', attention(qkv, { heads: 1 })), map)) }
}
