import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { findNearestSize, fitsSize } from '../../../edge/routing/size.ts'

const nano = { width: 256, height: 256, max_pixels: 147_456, max_side: 512 }
const large = { width: 1024, height: 1024, max_pixels: 1_572_864, max_side: 1536 }
const parseSize = (text: string) => {
  const [width, height] = text.split('x').map(Number)
  return { width: width!, height: height! }
}

describe('the nearest size', () => {
  test.for([
    ['1024x1024', '384x384'],
    ['512x512', '384x384'],
    ['256x256', '256x256'],
    ['1536x1024', '432x288'],
    ['1024x1536', '288x432'],
    ['1792x1024', '512x288'],
    ['1024x1792', '288x512'],
    ['1000x1000', '384x384'],
    ['100x100', '96x96'],
    ['1x1', '16x16'],
    ['9999x1', '512x16'],
  ])('of nano for %s is %s', ([wanted, nearest]) =>
    expect(findNearestSize(nano, parseSize(wanted!))).toEqual(parseSize(nearest!)),
  )

  test.for([
    ['1024x1024', '1024x1024'],
    ['1000x700', '1008x704'],
    ['1792x1024', '1536x880'],
  ])('of a larger model for %s is %s', ([wanted, nearest]) => {
    expect(findNearestSize(large, parseSize(wanted!))).toEqual(parseSize(nearest!))
  })

  test('for an aspect ratio has the number of pixels of the default size', () => {
    expect(findNearestSize(large, { aspect: 1 })).toEqual(parseSize('1024x1024'))
    expect(findNearestSize(nano, { aspect: 16 / 9 })).toEqual(parseSize('336x192'))
  })

  test('is always a size of the offer, and the requested one if the offer has it', () => {
    const side = fc.integer({ min: 1, max: 100_000 })
    fc.assert(fc.property(side, side, (width, height) => fitsSize(nano, findNearestSize(nano, { width, height }))))
    const unit = fc.integer({ min: 1, max: 24 }).map((units) => units * 16)
    fc.assert(
      fc.property(unit, unit, (width, height) => {
        expect(findNearestSize(nano, { width, height })).toEqual({ width, height })
      }),
    )
  })
})
