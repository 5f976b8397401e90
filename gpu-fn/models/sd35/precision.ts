// The storage type of SD3.5's tensors at each precision, and why. The first matching rule applies.
import type { AdaLNBits, T5Bits } from '../../compile/graph/model.ts'
import { type Precision, precisionOf, type Rule } from '../../compile/graph/precision.ts'
import { TIER_TABLE, type Tier } from '../../contract.ts'

const T5_MATRICES = /^encoder\.block\.\d+\.layer\.\d+\.(SelfAttention\.[qkvo]|DenseReluDense\.(wi_0|wi_1|wo))\.weight$/

const T5_IN_4_BITS: Rule = {
  network: /^t5$/,
  tensor: T5_MATRICES,
  storage: 'int4',
  why: 'for small GPUs and disks; three times the prompt-embedding error of FP8',
}

const ADALN_IN_8_BITS: Rule = {
  network: /^transformer$/,
  tensor: /\.adaLN_modulation\.1\.weight$/,
  storage: 'int8',
  why: 'a third of all weights, used once per image; FP8 has four times the modulation error (npm run bench -- precision)',
}

const BLOCKS_IN_FP8: Rule = {
  network: /^transformer$/,
  tensor: /^joint_blocks\.\d+\.(x_block|context_block)\.(attn2?\.(qkv|proj)|mlp\.fc[12])\.weight$/,
  storage: 'float8e4m3fn',
  why: 'two thirds of all weights and nearly all of the work; a scale per row keeps the error near 2.6 %',
  native: {
    multiplied: true,
    why: 'nearly all of the work; with a scale per token, one large token does not affect the precision of others',
  },
}

const FP8_RULES: readonly Rule[] = [
  BLOCKS_IN_FP8,
  {
    network: /^controlnet$/,
    tensor: /^transformer_blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight$/,
    storage: 'float8e4m3fn',
    why: 'as in the denoiser: nearly all of the work',
    native: { multiplied: true, why: 'as in the denoiser' },
  },
  {
    network: /^t5$/,
    tensor: T5_MATRICES,
    storage: 'float8e4m3fn',
    why: 'halves the largest encoder; vLLM-Omni #3997 measured LPIPS 0.04',
    native: { multiplied: false, why: 'all steps read its output, and it runs once per prompt' },
  },
]

const MLP_IN_4_BITS: Rule = {
  network: /^transformer$/,
  tensor: /^joint_blocks\.\d+\.(x_block|context_block)\.mlp\.fc[12]\.weight$/,
  storage: 'fp8-int4',
  why: 'two thirds of the step graph; activations stay in FP8',
  native: { multiplied: true, why: 'unpacked to FP8 codes before the product' },
}

const COMMON_RULES: readonly Rule[] = [
  { network: /^transformer$/, tensor: /^pos_embed$/, storage: 'float32', why: 'a table of sines that is added once' },
  {
    network: /./,
    tensor: /./,
    rank: 1,
    storage: 'float32',
    why: 'norms and biases: few bytes, and each error shifts a whole channel',
  },
  {
    network: /./,
    tensor: /./,
    storage: 'float16',
    why: 'adaLN and embedders steer every token (flux-fp8-api: "much higher impact on quality"), as do residuals; CLIP and VAE lose more than they save',
  },
]

type Options = {
  readonly adalnBits?: AdaLNBits | undefined
  readonly t5Bits?: T5Bits | undefined
  /** Matches weight names of layers that stay in FP8 in tier fp8-int4; none by default. */
  readonly sensitive?: RegExp
}

type PrecisionName = (typeof TIER_TABLE)[Tier]['precision']

const RULES: Record<PrecisionName, readonly Rule[]> = {
  fp8: [...FP8_RULES, ...COMMON_RULES],
  'fp8-int4': [MLP_IN_4_BITS, ...FP8_RULES, ...COMMON_RULES],
  fp16: COMMON_RULES,
  fp32: [{ network: /./, tensor: /./, storage: 'float32', why: 'the reference' }],
}

const createSensitiveRule = (tensor: RegExp): Rule => ({
  ...BLOCKS_IN_FP8,
  tensor,
  why: 'the layers of the MLPs in which 4 bits have the largest effect; sensitive-layers.ts',
})

/** Defaults of tier fp8-int4, with which the whole pipeline fits in 6 GiB of GPU memory. */
const SMALL = { adalnBits: 8, t5Bits: 4 } as const

/** Bits from the options, or else the tier's defaults; undefined for the tier's standard types. */
export function bitsOf(tier: Tier, { adalnBits, t5Bits }: Options): Pick<Options, 'adalnBits' | 't5Bits'> {
  if (TIER_TABLE[tier].precision !== 'fp8-int4') return { adalnBits, t5Bits }
  return { adalnBits: adalnBits ?? SMALL.adalnBits, t5Bits: t5Bits ?? SMALL.t5Bits }
}

export function createSd35Precision(tier: Tier, options: Options = {}): Precision {
  const { precision } = TIER_TABLE[tier]
  const { sensitive } = options
  const { adalnBits, t5Bits } = bitsOf(tier, options)
  return precisionOf([
    ...(adalnBits === 8 ? [ADALN_IN_8_BITS] : []),
    ...(t5Bits === 4 ? [T5_IN_4_BITS] : []),
    ...(precision === 'fp8-int4' && sensitive ? [createSensitiveRule(sensitive)] : []),
    ...RULES[precision],
  ])
}
