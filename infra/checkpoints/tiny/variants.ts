// The tiny variants. Each has the special features of a real one, at a thousandth of its size.

export type TransformerShape = {
  depth: number
  heads: number
  headDim: number
  patch: number
  channels: number
  /** Blocks with a second, image-only attention. */
  dual: readonly number[]
  qkNorm: boolean
  /** Side of the position table, in patches. */
  positions: number
  positionTable: 'sincos' | 'random'
  sampleSize: number
  /** Scales the inputs of the residual streams; with small inputs, the epsilon of a norm matters. */
  inputScale: number
}
export type ClipShape = {
  width: number
  heads: number
  depth: number
  projection: number
  activation: 'quick_gelu' | 'gelu'
  vocabulary: number
  /**
   * Selects the token for the pooled state: for the published value 2, the token with the highest id; otherwise the first one with this id.
   */
  eosTokenId: number
  inputScale: number
}
export type T5Shape = {
  width: number
  heads: number
  headDim: number
  depth: number
  feedForward: number
  buckets: number
  maxDistance: number
  inputScale: number
  vocabulary: number
}
export type VaeShape = {
  blocks: readonly number[]
  layersPerBlock: number
  groups: number
  scalingFactor: number
  shiftFactor: number
  postQuantConv: boolean
}
export type TinyShape = {
  transformer: TransformerShape
  clipL: ClipShape
  clipG: ClipShape
  t5: T5Shape
  vae: VaeShape
  shift: number
}

const clipL: ClipShape = {
  width: 64,
  heads: 1,
  depth: 3,
  projection: 64,
  activation: 'quick_gelu',
  vocabulary: 1000,
  eosTokenId: 2,
  inputScale: 1,
}
const clipG: ClipShape = {
  width: 128,
  heads: 2,
  depth: 3,
  projection: 128,
  activation: 'gelu',
  vocabulary: 1000,
  eosTokenId: 2,
  inputScale: 1,
}
const t5: T5Shape = {
  width: 256,
  heads: 4,
  headDim: 32,
  depth: 2,
  feedForward: 320,
  buckets: 32,
  maxDistance: 128,
  inputScale: 1,
  vocabulary: 1024,
}
const vae: VaeShape = {
  blocks: [32, 32, 64, 64],
  layersPerBlock: 2,
  groups: 32,
  scalingFactor: 1.5305,
  shiftFactor: 0.0609,
  postQuantConv: false,
}
const transformer: TransformerShape = {
  depth: 3,
  heads: 2,
  headDim: 64,
  patch: 2,
  channels: 16,
  dual: [0, 1],
  qkNorm: true,
  positions: 24,
  positionTable: 'sincos',
  sampleSize: 32,
  inputScale: 1,
}

const odd = { vocabulary: 1010, eosTokenId: 999, inputScale: 0.02 }

export const TINY_VARIANTS = {
  /** As SD3.5 Medium: dual attention in the first blocks. */
  'tiny-medium': { transformer, clipL, clipG, t5, vae, shift: 3 },
  /** As SD3.5 Large: no dual attention; a learned position table without a formula. */
  'tiny-large': {
    transformer: { ...transformer, depth: 3, heads: 3, headDim: 32, dual: [], positionTable: 'random' },
    clipL,
    clipG,
    t5,
    vae,
    shift: 3,
  },
  /** As SD3 Medium: neither dual attention nor norms of queries and keys. */
  'tiny-sd3': {
    transformer: { ...transformer, depth: 2, dual: [], qkNorm: false },
    clipL,
    clipG,
    t5,
    vae,
    shift: 3,
  },
  /** As SD3.5 Medium, with few enough weights for quantized copies in test/golden/quantized; the inner width of T5 fits the blocks of K-quants. */
  'tiny-small': {
    transformer: { ...transformer, depth: 2, heads: 1, headDim: 32, dual: [0], positions: 8, sampleSize: 8 },
    clipL: { ...clipL, width: 32, projection: 32, depth: 2 },
    clipG: { ...clipG, width: 32, heads: 1, projection: 32, depth: 2 },
    t5: { ...t5, width: 64, heads: 2, headDim: 16, depth: 3, feedForward: 256 },
    vae: { ...vae, blocks: [32, 32, 32, 32], layersPerBlock: 1 },
    shift: 3,
  },
  /** Unusual values everywhere. Requires the diffusers layout, because a single file does not specify groups, heads and scales. */
  'tiny-odd': {
    transformer: {
      depth: 3,
      heads: 5,
      headDim: 24,
      patch: 1,
      channels: 8,
      dual: [1],
      qkNorm: true,
      positions: 40,
      positionTable: 'random',
      sampleSize: 16,
      inputScale: 0.01,
    },
    clipL: { ...clipL, width: 48, heads: 3, projection: 40, depth: 2, ...odd },
    clipG: { ...clipG, width: 60, heads: 5, projection: 32, ...odd },
    t5: {
      ...t5,
      width: 120,
      heads: 3,
      headDim: 20,
      depth: 3,
      feedForward: 88,
      buckets: 16,
      maxDistance: 40,
      inputScale: 0.01,
    },
    vae: {
      blocks: [24, 48],
      layersPerBlock: 1,
      groups: 8,
      scalingFactor: 0.7,
      shiftFactor: -0.15,
      postQuantConv: true,
    },
    shift: 2,
  },
} as const satisfies Record<string, TinyShape>

export type TinyVariant = keyof typeof TINY_VARIANTS
