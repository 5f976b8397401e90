import { expect, test } from 'vitest'
import type { Source } from '../../../../gpu-fn/compile/checkpoint/tensor.ts'
import { VARIANTS, variantOf } from '../../../../gpu-fn/models/sd35/variants.ts'

const createSource = (name: string): Source => ({ layout: 'single-file', name })
const shapeOf = (name: string) => VARIANTS.find((variant) => variant.name === name)!

test.each([
  ['large', 'sd3.5_large.safetensors', 'large', 28],
  ['large', 'sd3.5_large_turbo.safetensors', 'large-turbo', 4],
  ['large', 'stable-diffusion-3.5-large-TurboX', 'large-turbox', 8],
  ['medium', 'sd3.5_medium.safetensors', 'medium', 40],
  ['medium', 'sd3.5m_turbo.safetensors', 'medium-turbo', 8],
  ['medium', 'SD3.5-Flash', 'flash', 4],
  ['sd3-medium', 'sd3_medium.safetensors', 'sd3-medium', 28],
  ['nano', 'nano', 'nano', 28],
  ['nano', 'turbo', 'nano-turbo', 4],
  ['nano', 'flash', 'nano-flash', 2],
])('the shape of %s at %j is %s, with %d steps', (shape, name, expected, steps) => {
  const choice = variantOf(shapeOf(shape), createSource(name))
  expect([choice.name, choice.defaults.steps]).toEqual([expected, steps])
  expect(choice.reason).toContain(JSON.stringify(name))
})

test('a variant with an ambiguous name lists the values of --variant', () => {
  expect(variantOf(shapeOf('medium'), createSource('model.safetensors')).reason).toBe(
    'its shape, and the name "model.safetensors" matches no other variant of this shape; --variant selects medium-turbo or flash',
  )
  expect(variantOf(shapeOf('medium'), createSource('turbo'), {}, 'medium')).toMatchObject({
    name: 'medium',
    reason: '--variant selects it',
  })
})

test('the fine-tune with a different shift has that shift', () => {
  expect(VARIANTS.filter(({ shift }) => shift !== 3).map(({ name, shift }) => [name, shift])).toEqual([
    ['large-turbox', 5],
  ])
})

test.each([
  ['large', /Stability AI Community License/],
  ['medium', /Stability AI Community License/],
  ['nano-turbo', /Apache-2\.0; they were trained on Noto Color Emoji \(OFL-1\.1\)/],
  ['custom', /licensed by their author/],
])('weights of %s have the license of their publisher', (name, license) => {
  const shape = name === 'custom' ? { ...shapeOf('nano'), depth: 7 } : shapeOf(name)
  expect(variantOf(shape, createSource('x'), {}, name).defaults.license).toMatch(license)
})
