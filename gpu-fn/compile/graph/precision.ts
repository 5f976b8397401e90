// Which module is stored in which precision, and why. The first rule that fits decides.
import type { Tier } from '../../manifest.ts'

export type Storage = 'float32' | 'float16' | 'float8e4m3fn'
export type PrecisionOf = (network: string, tensor: string, shape: readonly number[]) => Storage

type Rule = {
  readonly network: RegExp
  readonly tensor: RegExp
  readonly rank?: number
  readonly storage: Storage
  readonly why: string
}
type Fp8Rule = Rule & {
  /** Whether target cuda-fp8 multiplies these weights as they are, with activations in FP8 too, or widens them as target cuda does. */
  readonly native: boolean
  readonly whyNative: string
}

export const FP8_RULES: readonly Fp8Rule[] = [
  {
    network: /^transformer$/,
    tensor: /^joint_blocks\.\d+\.(x_block|context_block)\.(attn2?\.(qkv|proj)|mlp\.fc[12])\.weight$/,
    storage: 'float8e4m3fn',
    why: 'two thirds of all weights and nearly all of the work; a scale per row keeps the error near 2.6 %',
    native: true,
    whyNative: 'nearly all of the work; a scale per token keeps one large token from ruining the others',
  },
  {
    network: /^t5$/,
    tensor: /^encoder\.block\.\d+\.layer\.\d+\.(SelfAttention\.[qkvo]|DenseReluDense\.(wi_0|wi_1|wo))\.weight$/,
    storage: 'float8e4m3fn',
    why: 'halves the largest encoder; vLLM-Omni #3997 measured LPIPS 0.04',
    native: false,
    whyNative: 'every step reads what it wrote, and it runs once a prompt',
  },
]

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
    why: 'adaLN and embedders steer every token (flux-fp8-api: "much higher impact on quality"); CLIP and VAE lose more than they save',
  },
]

const RULES: Record<Tier, readonly Rule[]> = {
  fp8: [...FP8_RULES, ...COMMON_RULES],
  'fp8-lite': [...FP8_RULES, ...COMMON_RULES],
  fp16: COMMON_RULES,
  fp32: [{ network: /./, tensor: /./, storage: 'float32', why: 'the reference' }],
}

/** The storage type of every tensor in a tier. */
export function precisionOf(tier: Tier): PrecisionOf {
  return (network, tensor, shape) => {
    const fits = (rule: Rule) =>
      rule.network.test(network) && rule.tensor.test(tensor) && (rule.rank === undefined || shape.length <= rule.rank)
    return RULES[tier].find(fits)!.storage
  }
}

/** Whether a weight that is stored in FP8 is multiplied in FP8 by target cuda-fp8. All others, and those kept at 16 bits, are not. */
export const isNative = (network: string, tensor: string): boolean =>
  FP8_RULES.some((rule) => rule.native && rule.network.test(network) && rule.tensor.test(tensor))
