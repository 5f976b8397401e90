import { expect, test } from 'vitest'
import type { Checkpoint } from '../../../../gpu-fn/compile/checkpoint/tensor.ts'
import { VARIANTS, variantOf } from '../../../../gpu-fn/models/sd35/variants.ts'

const single: Checkpoint = { layout: 'single-file', networks: {}, config: {}, tokenizers: {} }
const shapeOf = (name: string) => VARIANTS.find((variant) => variant.name === name)!

test.each([
  ['large', ['sd3.5_large.safetensors'], 'large'],
  ['large', ['sd3.5_large_turbo.safetensors'], 'large-turbo'],
  ['medium', ['sd3.5_medium.safetensors'], 'medium'],
  ['medium', ['SD3.5-Flash'], 'flash'],
  ['nano', ['gpu-fn/nano'], 'nano'],
  ['nano', ['gpu-fn/nano/turbo'], 'nano-turbo'],
])('the shape of %s at %j is %s', (shape, paths, expected) => {
  expect(variantOf(shapeOf(shape), single, paths).name).toBe(expected)
})

test.each([
  ['large', /Stability AI Community License/],
  ['medium', /Stability AI Community License/],
  ['nano-turbo', /Apache-2\.0; they were trained on Noto Color Emoji \(OFL-1\.1\)/],
  ['custom', /licensed by their author/],
])('weights of %s are under the license of who made them', (name, license) => {
  const shape = name === 'custom' ? { ...shapeOf('nano'), depth: 7 } : shapeOf(name)
  expect(variantOf(shape, single, [], name).defaults.license).toMatch(license)
})
