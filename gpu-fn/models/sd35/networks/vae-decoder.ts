// The decoder of SD3.5's 16-channel autoencoder. Stability-AI/sd3.5 sd3_impls.py `VAEDecoder` @ fbf8f48.
// B batch · C channels · h, w latent size · feature maps are in the target's layout
import type { Graph, Value } from '../../../compile/graph/graph.ts'
import type { FeatureMap } from '../../../compile/graph/layer-types.ts'
import {
  applyDeferredAndNorm,
  attention,
  branchConv2d,
  conv2d,
  groupNorm,
  linear,
  outputWidth,
  toActivations,
} from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'

export type VaeConfig = {
  readonly latentChannels: number
  /** Resolutions; all but the last double the size. */
  readonly levels: number
  readonly blocksPerLevel: number
  readonly groups: number
  readonly scalingFactor: number
  readonly shiftFactor: number
}

const EPSILON = 1e-6
const ONE_BY_ONE = { kernel: 1, padding: 0 }

/**
 * Graph `vae_decoder`: latent [B, C, h, w] → image [B, 3, 8h, 8w], about −1..1; the same as 8-bit pixels [B, 8h, 8w, 3], a quarter of the
 * bytes to copy; and its sum, which is not finite unless all values are.
 */
export function vaeDecoder(s: Scope, config: VaeConfig): Graph {
  const { graph } = s
  const { latentChannels, levels, blocksPerLevel, groups, scalingFactor, shiftFactor } = config
  const latent = graph.input('latent', 'float32', ['B', latentChannels, 'h', 'w'])
  const z = ops.add(ops.divide(latent, ops.scalar(latent, scalingFactor)), ops.scalar(latent, shiftFactor))
  const map = s.lowering.featureMap(toActivations(s, z))
  const postQuant = s.at('post_quant_conv')
  const first = postQuant.has('weight') ? conv2d(postQuant, map, latentChannels, ONE_BY_ONE) : map

  const decoder = s.at('decoder')
  let x: FeatureMap = { value: conv2d(decoder.at('conv_in'), first, outputWidth(decoder.at('conv_in'))) }
  x = residualBlock(decoder.at('mid', 'block_1'), x, groups)
  if (decoder.has('mid.attn_1.q.weight')) x = attentionBlock(decoder.at('mid', 'attn_1'), x, groups)
  x = residualBlock(decoder.at('mid', 'block_2'), x, groups)
  for (let level = levels - 1; level >= 0; level--) {
    const up = decoder.at('up', level)
    for (let i = 0; i < blocksPerLevel; i++) x = residualBlock(up.at('block', i), x, groups)
    if (level > 0) x = upsample(up.at('upsample'), x)
  }
  const normed = groupNorm(decoder.at('norm_out'), x, { groups, epsilon: EPSILON, silu: true })
  const image = ops.cast(s.lowering.planes(conv2d(decoder.at('conv_out'), normed, 3)), 'float32')
  graph.output('image', image)
  graph.output('pixels', pixelsOf(image))
  graph.output('sum', ops.sum(image))
  return graph
}

/** Rounds as diffusers' `VaeImageProcessor` and numpy do: half to even. */
function pixelsOf(image: Value): Value {
  const half = ops.scalar(image, 0.5)
  const levels = ops.multiply(ops.add(ops.multiply(image, half), half), ops.scalar(image, 255))
  return ops.cast(ops.transpose(ops.round(ops.clip(levels, 0, 255)), [0, 2, 3, 1]), 'uint8')
}

/** sd3_impls.py `ResnetBlock` */
function residualBlock(s: Scope, x: FeatureMap, groups: number): FeatureMap {
  const out = outputWidth(s.at('conv1'))
  const options = { groups, epsilon: EPSILON, silu: true }
  const { map, normed } = applyDeferredAndNorm(s.at('norm1'), x, options)
  const h = branchConv2d(s.at('conv1'), normed, out)
  const y = branchConv2d(s.at('conv2'), groupNorm(s.at('norm2'), h, options), out)
  const same = s.lowering.channels(map) === out
  return s.lowering.addSkip(same ? map : conv2d(s.at('nin_shortcut'), map, out, ONE_BY_ONE), y)
}

function upsample(s: Scope, x: FeatureMap): FeatureMap {
  const twice = s.lowering.upsampleNearest(s.lowering.applyDeferred(x))
  return { value: conv2d(s.at('conv'), twice, s.lowering.channels(twice)) }
}

/** One attention head over all positions. sd3_impls.py `AttnBlock` */
function attentionBlock(s: Scope, x: FeatureMap, groups: number): FeatureMap {
  const channels = s.lowering.channels(x.value)
  const { map, normed } = applyDeferredAndNorm(s.at('norm'), x, { groups, epsilon: EPSILON, silu: false })
  const tokens = s.lowering.tokens(normed, 'h*w') // [B, h·w, C]
  const project = (name: string, input: Value) => linear(s.at(name), input, channels)
  const qkv = { q: project('q', tokens), k: project('k', tokens), v: project('v', tokens) }
  return { value: ops.add(map, s.lowering.fromTokens(project('proj_out', attention(qkv, { heads: 1 })), map)) }
}
