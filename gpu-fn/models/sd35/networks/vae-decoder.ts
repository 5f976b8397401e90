// The decoder of SD3.5's 16-channel autoencoder. Stability-AI/sd3.5 sd3_impls.py `VAEDecoder` @ fbf8f48.
// B batch · C channels · h, w latent size · feature maps are in the target's layout
import type { Graph, Value } from '../../../compile/graph/graph.ts'
import type { FeatureMap } from '../../../compile/graph/layer-types.ts'
import { conv2d, groupNorm, outputWidth, toActivations } from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'
import { EPSILON, middle, ONE_BY_ONE, residualBlock, type VaeConfig } from './vae-blocks.ts'

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
  x = middle(decoder.at('mid'), x, groups)
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

function upsample(s: Scope, x: FeatureMap): FeatureMap {
  const twice = s.lowering.upsampleNearest(s.lowering.applyDeferred(x))
  return { value: conv2d(s.at('conv'), twice, s.lowering.channels(twice)) }
}
