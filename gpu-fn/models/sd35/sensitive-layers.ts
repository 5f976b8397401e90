// The MLP layers of the denoiser that tier fp8-int4 keeps in FP8.
import type { MMDiTConfig } from './networks/mmdit.ts'
import measured from './sensitivity.json' with { type: 'json' }

/** The error of the velocity with a single layer in 4 bits, by the layer's name. */
export type LayerErrors = Readonly<Record<string, number>>
/** The errors by variant; `npm run sensitivity` writes them. */
export type SensitivityTable = Readonly<Record<string, LayerErrors>>

/** Whether a layer's squared error exceeds the mean of all layers. Squared errors, because those of independent layers add up. */
export function isSensitive(errors: LayerErrors, layer: string): boolean {
  const squares = Object.values(errors).map((error) => error ** 2)
  const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length
  return errors[layer]! ** 2 > mean
}

/**
 * The blocks at both ends, for variants without measurements: the first ones distort all that follow, and no later block corrects the last
 * ones. ComfyUI-GGUF #78 and convert_to_quant #55 keep the first two and the last one to three in higher precision.
 */
const ENDS = { first: 2, last: 3 }
/** In networks of fewer blocks, the ends would be most of the network. */
const LEAST_DEPTH = 12

/** Matches the names of the sensitive layers' weights. */
export function sensitiveLayers(
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
  if (depth < LEAST_DEPTH) return []
  return Array.from({ length: depth }, (_, block) => block).filter(
    (block) => block < ENDS.first || block >= depth - ENDS.last,
  )
}

const layersOf = (block: number) =>
  ['x_block', 'context_block'].flatMap((stream) =>
    ['fc1', 'fc2'].map((layer) => `joint_blocks.${block}.${stream}.mlp.${layer}`),
  )
