import { expect, test } from 'vitest'
import { guide } from '../../../gpu-fn/pipeline/denoise.ts'

test('guidance scale 1 is the prompt alone, 0 the negative prompt alone', () => {
  const negative = Float32Array.of(0.5, -2, 8)
  const positive = Float32Array.of(1.5, 4, -8)
  expect([...guide(negative, positive.slice(), 0)]).toEqual([...negative])
  expect([...guide(negative, positive.slice(), 1)]).toEqual([...positive])
  expect([...guide(negative, positive.slice(), 3)]).toEqual([3.5, 16, -40])
})
