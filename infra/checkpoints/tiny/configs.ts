// The JSON files of the diffusers layout: model_index.json and one config per component.
import type { ClipShape, T5Shape, TinyShape } from './variants.ts'

/** Component folder → class, as model_index.json lists them. */
export function createModelIndex(t5: boolean): Record<string, unknown> {
  return {
    _class_name: 'StableDiffusion3Pipeline',
    _diffusers_version: '0.36.0',
    scheduler: ['diffusers', 'FlowMatchEulerDiscreteScheduler'],
    text_encoder: ['transformers', 'CLIPTextModelWithProjection'],
    text_encoder_2: ['transformers', 'CLIPTextModelWithProjection'],
    text_encoder_3: t5 ? ['transformers', 'T5EncoderModel'] : [null, null],
    tokenizer: ['transformers', 'CLIPTokenizer'],
    tokenizer_2: ['transformers', 'CLIPTokenizer'],
    tokenizer_3: t5 ? ['transformers', 'T5TokenizerFast'] : [null, null],
    transformer: ['diffusers', 'SD3Transformer2DModel'],
    vae: ['diffusers', 'AutoencoderKL'],
  }
}

export function createTransformerConfig({ transformer: shape, ...encoders }: TinyShape): Record<string, unknown> {
  return {
    _class_name: 'SD3Transformer2DModel',
    attention_head_dim: shape.headDim,
    caption_projection_dim: shape.heads * shape.headDim,
    dual_attention_layers: shape.dual,
    in_channels: shape.channels,
    joint_attention_dim: encoders.t5.width,
    num_attention_heads: shape.heads,
    num_layers: shape.depth,
    out_channels: shape.channels,
    patch_size: shape.patch,
    pooled_projection_dim: encoders.clipL.projection + encoders.clipG.projection,
    pos_embed_max_size: shape.positions,
    qk_norm: shape.qkNorm ? 'rms_norm' : null,
    sample_size: shape.sampleSize,
  }
}

export function createClipConfig(shape: ClipShape): Record<string, unknown> {
  return {
    architectures: ['CLIPTextModelWithProjection'],
    model_type: 'clip_text_model',
    attention_dropout: 0,
    bos_token_id: 0,
    eos_token_id: shape.eosTokenId,
    pad_token_id: 1,
    hidden_act: shape.activation,
    hidden_size: shape.width,
    intermediate_size: 4 * shape.width,
    layer_norm_eps: 1e-5,
    max_position_embeddings: 77,
    num_attention_heads: shape.heads,
    num_hidden_layers: shape.depth,
    projection_dim: shape.projection,
    vocab_size: shape.vocabulary,
  }
}

export function createT5Config(shape: T5Shape): Record<string, unknown> {
  return {
    architectures: ['T5EncoderModel'],
    model_type: 't5',
    d_ff: shape.feedForward,
    d_kv: shape.headDim,
    d_model: shape.width,
    dense_act_fn: 'gelu_new',
    dropout_rate: 0,
    eos_token_id: 1,
    feed_forward_proj: 'gated-gelu',
    is_encoder_decoder: true,
    is_gated_act: true,
    layer_norm_epsilon: 1e-6,
    num_heads: shape.heads,
    num_layers: shape.depth,
    pad_token_id: 0,
    relative_attention_max_distance: shape.maxDistance,
    relative_attention_num_buckets: shape.buckets,
    tie_word_embeddings: false,
    vocab_size: shape.vocabulary,
  }
}

export function createVaeConfig({ vae: shape, transformer }: TinyShape): Record<string, unknown> {
  const levels = shape.blocks.length
  return {
    _class_name: 'AutoencoderKL',
    act_fn: 'silu',
    block_out_channels: shape.blocks,
    down_block_types: Array(levels).fill('DownEncoderBlock2D'),
    force_upcast: true,
    in_channels: 3,
    latent_channels: transformer.channels,
    layers_per_block: shape.layersPerBlock,
    mid_block_add_attention: true,
    norm_num_groups: shape.groups,
    out_channels: 3,
    sample_size: transformer.sampleSize * 2 ** (levels - 1),
    scaling_factor: shape.scalingFactor,
    shift_factor: shape.shiftFactor,
    up_block_types: Array(levels).fill('UpDecoderBlock2D'),
    use_post_quant_conv: shape.postQuantConv,
    use_quant_conv: false,
  }
}

export function createSchedulerConfig({ shift }: TinyShape): Record<string, unknown> {
  return {
    _class_name: 'FlowMatchEulerDiscreteScheduler',
    base_image_seq_len: 256,
    base_shift: 0.5,
    max_image_seq_len: 4096,
    max_shift: 1.15,
    num_train_timesteps: 1000,
    shift,
    use_dynamic_shifting: false,
  }
}
