// The encoder of SD3.5's 16-channel autoencoder. Stability-AI/sd3.5 sd3_impls.py `VAEEncoder` @ fbf8f48.
// B batch · C channels · H, W image size · feature maps are in the target's layout
import type { Graph, Value } from '../../../compile/graph/graph.ts'
import type { FeatureMap } from '../../../compile/graph/layer-types.ts'
import { conv2d, groupNorm, outputWidth, toActivations } from '../../../compile/graph/nn.ts'
import * as ops from '../../../compile/graph/ops.ts'
import type { Scope } from '../../../compile/graph/scope.ts'
import { EPSILON, middle, ONE_BY_ONE, residualBlock, type VaeConfig } from './vae-blocks.ts'

/** Limits of the logarithm of the variance. diffusers vae.py `DiagonalGaussianDistribution` */
const LOG_VARIANCE = { min: -30, max: 20 }

/**
 * Graph `vae_encoder`: image [B, 3, 8h, 8w] of -1 to 1 → the distribution of its latent, as `mean` and `deviation` [B, C, h, w] in units of
 * the denoiser.
 */
export function vaeEncoder(s: Scope, config: VaeConfig): Graph {
  const { graph } = s
  const { latentChannels, levels, encoderBlocksPerLevel, groups, scalingFactor, shiftFactor } = config
  const image = graph.input('image', 'float32', ['B', 3, 'H', 'W'])
  const encoder = s.at('encoder')
  const map = s.lowering.featureMap(toActivations(s, image))
  let x: FeatureMap = { value: conv2d(encoder.at('conv_in'), map, outputWidth(encoder.at('conv_in'))) }
  for (let level = 0; level < levels; level++) {
    const down = encoder.at('down', level)
    for (let i = 0; i < encoderBlocksPerLevel!; i++) x = residualBlock(down.at('block', i), x, groups)
    if (level < levels - 1) x = downsample(down.at('downsample'), x)
  }
  x = middle(encoder.at('mid'), x, groups)
  const normed = groupNorm(encoder.at('norm_out'), x, { groups, epsilon: EPSILON, silu: true })
  const moments = quantize(s.at('quant_conv'), conv2d(encoder.at('conv_out'), normed, 2 * latentChannels))
  const [mean, logVariance] = ops.split(moments, [latentChannels, latentChannels], 1)
  const scale = ops.scalar(mean!, scalingFactor)
  graph.output('mean', ops.multiply(ops.subtract(mean!, ops.scalar(mean!, shiftFactor)), scale))
  graph.output('deviation', ops.multiply(deviationOf(logVariance!), scale))
  return graph
}

/** The moments as float32 planes [B, 2C, h, w], after the projection that SD1.5's autoencoder has and SD3.5's does not. */
function quantize(s: Scope, map: Value): Value {
  const moments = s.has('weight') ? conv2d(s, map, s.lowering.channels(map), ONE_BY_ONE) : map
  return ops.cast(s.lowering.planes(moments), 'float32')
}

function deviationOf(logVariance: Value): Value {
  const { min, max } = LOG_VARIANCE
  return ops.exp(ops.multiply(ops.clip(logVariance, min, max), ops.scalar(logVariance, 0.5)))
}

/** Halves the size; the reference pads at the end only. sd3_impls.py `Downsample` */
function downsample(s: Scope, x: FeatureMap): FeatureMap {
  const padded = s.lowering.padEnd(s.lowering.applyDeferred(x))
  return { value: conv2d(s.at('conv'), padded, s.lowering.channels(padded), { stride: 2, padding: 0 }) }
}
