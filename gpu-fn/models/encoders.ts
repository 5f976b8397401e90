// Configurations of the text encoders and the VAE, from their tensors and, in the diffusers layout, config.json.
import type { Tensor } from '../compile/checkpoint.ts'
import { CheckpointError } from '../compile/checkpoint-error.ts'
import type { Activation } from '../compile/nn.ts'
import type { ClipTextConfig } from './clip-text.ts'
import { countOf, shapeOf } from './sd35.ts'
import type { T5Config } from './t5-encoder.ts'
import type { VaeConfig } from './vae-decoder.ts'

type Tensors = ReadonlyMap<string, Tensor>
type Json = Readonly<Record<string, unknown>>

const ACTIVATIONS: Record<string, Activation> = {
  quick_gelu: 'quick_gelu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
}

function numberOf(config: Json, key: string, otherwise: number): number {
  return typeof config[key] === 'number' ? config[key] : otherwise
}

/** Without config.json: heads of 64, quick GELU for CLIP-L and erf GELU for bigG, as published. */
export function deriveClip(network: 'clip_l' | 'clip_g', tensors: Tensors, config: Json = {}): ClipTextConfig {
  const [tokens, width] = shapeOf(network, tensors, 'text_model.embeddings.position_embedding.weight') as [
    number,
    number,
  ]
  const [vocabulary] = shapeOf(network, tensors, 'text_model.embeddings.token_embedding.weight') as [number]
  const name = config.hidden_act ?? (network === 'clip_l' ? 'quick_gelu' : 'gelu')
  const activation = ACTIVATIONS[String(name)]
  if (!activation)
    throw new CheckpointError(
      `${network} config.json`,
      `hidden_act ${name} is not one of ${Object.keys(ACTIVATIONS).join(', ')}`,
    )
  const endToken = numberOf(config, 'eos_token_id', 2)
  return {
    width,
    layers: countOf(tensors, /^text_model\.encoder\.layers\.(\d+)\./),
    heads: wholeHeads(network, numberOf(config, 'num_attention_heads', width / 64)),
    tokens,
    vocabulary,
    activation,
    epsilon: numberOf(config, 'layer_norm_eps', 1e-5),
    endToken: endToken === 2 ? null : endToken,
  }
}

function wholeHeads(network: string, heads: number): number {
  if (Number.isInteger(heads)) return heads
  throw new CheckpointError(
    network,
    'has no config.json and its width is no multiple of 64: the number of attention heads is unknown',
  )
}

export function deriveT5(tensors: Tensors, config: Json = {}): T5Config {
  const [vocabulary, width] = shapeOf('t5', tensors, 'shared.weight') as [number, number]
  const [buckets, heads] = shapeOf(
    't5',
    tensors,
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
  ) as [number, number]
  const feedForward = config.feed_forward_proj ?? 'gated-gelu'
  if (feedForward !== 'gated-gelu')
    throw new CheckpointError('t5 config.json', `feed_forward_proj ${feedForward} is not gated-gelu`)
  return {
    width,
    layers: countOf(tensors, /^encoder\.block\.(\d+)\./),
    heads,
    vocabulary,
    buckets,
    maxDistance: numberOf(config, 'relative_attention_max_distance', 128),
    epsilon: numberOf(config, 'layer_norm_epsilon', 1e-6),
  }
}

export function deriveVae(tensors: Tensors, config: Json = {}): VaeConfig {
  const [channels, latentChannels] = shapeOf('vae', tensors, 'decoder.conv_in.weight') as [number, number]
  const groups = numberOf(config, 'norm_num_groups', 32)
  if (channels % groups !== 0)
    throw new CheckpointError('vae', `${channels} channels do not divide into ${groups} norm groups`)
  return {
    latentChannels,
    levels: countOf(tensors, /^decoder\.up\.(\d+)\./),
    blocksPerLevel: countOf(tensors, /^decoder\.up\.0\.block\.(\d+)\./),
    groups,
    scalingFactor: numberOf(config, 'scaling_factor', 1.5305),
    shiftFactor: numberOf(config, 'shift_factor', 0.0609),
  }
}
