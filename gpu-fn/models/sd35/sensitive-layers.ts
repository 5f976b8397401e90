// Selection of the denoiser's MLP layers that stay in FP8 in tier fp8-int4.
import type { MMDiTConfig } from './networks/mmdit.ts'
import measured from './sensitivity.json' with { type: 'json' }

/** Velocity error with a single layer in 4 bits, by layer name. */
export type LayerErrors = Readonly<Record<string, number>>
/** Errors by variant, as written by `npm run sensitivity`. */
export type SensitivityTable = Readonly<Record<string, LayerErrors>>

/** Whether a layer's squared error exceeds the mean over all layers. Errors of independent layers sum in quadrature. */
export function isSensitive(errors: LayerErrors, layer: string): boolean {
  const squares = Object.values(errors).map((error) => error ** 2)
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length
  return errors[layer]! ** 2 > mean
}

/**
 * Default for variants without measurements: the first and the last blocks. Errors of the first blocks propagate through all others; errors
 * of the last blocks are not corrected. ComfyUI-GGUF #78 and convert_to_quant #55 keep the first two and the last one to three in higher
 * precision.
 */
const ENDS = { first: 2, last: 3 }
/** Minimum depth for this default. In shallower networks, these blocks would be most of the network. */
const MIN_DEPTH = 12

/** Matches the weight names of the sensitive layers. */
export function findSensitiveLayers(
  variant: string,
  { depth }: Pick<MMDiTConfig, 'depth'>,
  table: SensitivityTable = measured,
): RegExp {
  const errors = table[variant]
  const layers = errors
    ? Object.keys(errors).filter((layer) => isSensitive(errors, layer))
    : endsOf(depth).flatMap(layersOf)
  return new RegExp(`^(${layers.map((layer) => layer.replaceAll('.', '\\.')).join('|')})\\.weight$`)
}

function endsOf(depth: number): number[] {
  if (depth < MIN_DEPTH) return []
  return Array.from({ length: depth }, (_, block) => block).filter(
    (block) => block < ENDS.first || block >= depth - ENDS.last,
  )
}

const layersOf = (block: number) =>
  ['x_block', 'context_block'].flatMap((stream) =>
    ['fc1', 'fc2'].map((layer) => `joint_blocks.${block}.${stream}.mlp.${layer}`),
  )
