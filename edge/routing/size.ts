// The nearest size that an offer has. Pure.
import { LIMITS } from '#contract'
import type { Offer } from '../config/catalog.ts'
import type { WantedSize } from './decision.ts'

type Size = { width: number; height: number }
type Limits = Pick<Offer, 'width' | 'height' | 'max_pixels' | 'max_side'>

const { min: LEAST, multipleOf: UNIT } = LIMITS.side
/** Weight of an error in the aspect ratio, relative to an equal error in the area. */
const ASPECT_WEIGHT = 8

/** Whether the offer has exactly this size. */
export const fitsSize = ({ max_pixels, max_side }: Limits, { width, height }: Size): boolean =>
  width * height <= max_pixels &&
  Math.max(width, height) <= max_side &&
  Math.min(width, height) >= LEAST &&
  width % UNIT === 0 &&
  height % UNIT === 0

/** The wanted size within the offer's limits, without rounding. */
function scaleDown(offer: Limits, wanted: WantedSize): Size {
  const pixels = offer.width * offer.height
  const { width, height } =
    'aspect' in wanted
      ? { width: Math.sqrt(pixels * wanted.aspect), height: Math.sqrt(pixels / wanted.aspect) }
      : wanted
  const scale = Math.min(1, Math.sqrt(offer.max_pixels / (width * height)), offer.max_side / Math.max(width, height))
  return { width: width * scale, height: height * scale }
}

/** The size of the offer with the nearest aspect ratio and area. A wanted size that the offer has is returned unchanged. */
export function findNearestSize(offer: Limits, wanted: WantedSize): Size {
  const ideal = scaleDown(offer, wanted)
  const aspect = ideal.width / ideal.height
  const measureDistance = ({ width, height }: Size) =>
    ASPECT_WEIGHT * Math.abs(Math.log(width / height / aspect)) +
    Math.abs(Math.log((width * height) / (ideal.width * ideal.height)))
  let best: Size = { width: LEAST, height: LEAST }
  for (let width: number = LEAST; width <= offer.max_side; width += UNIT) {
    const below = Math.floor(width / aspect / UNIT) * UNIT
    for (const height of [Math.max(LEAST, below), below + UNIT]) {
      const size = { width, height }
      if (fitsSize(offer, size) && measureDistance(size) < measureDistance(best)) best = size
    }
  }
  return best
}
