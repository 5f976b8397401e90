import { expect, test } from 'vitest'
import { resolveModel } from '../../../edge/routing/alias.ts'
import { createConfigWith } from '../support/config.ts'

const { offers, endpoints } = createConfigWith({}).catalog
const aliases = { 'dall-e-3': 'tiny', 'gpt-image-*': 'auto', 'gpt-image-1-mini': 'paired', '*': 'paired' }

test('names of offers and the longest alias decide', () => {
  const resolve = (name: string) => resolveModel({ offers, aliases }, name)
  expect(['tiny', 'dall-e-3', 'gpt-image-1', 'gpt-image-1-mini', 'flux'].map(resolve)).toEqual([
    ...['tiny', 'tiny', undefined],
    ...['paired', 'paired'],
  ])
  expect(resolveModel({ offers }, 'dall-e-3')).toBe('dall-e-3')
})

test('an alias for an unknown model is an error of the configuration', () => {
  const read = (model: string) =>
    createConfigWith({ OCTET_CATALOG: JSON.stringify({ offers, endpoints, aliases: { 'dall-e-3': model } }) }).catalog
  expect(read('auto').aliases).toEqual({ 'dall-e-3': 'auto' })
  expect(() => read('small')).toThrow(
    'OCTET_CATALOG.aliases.dall-e-3 is "small": the alias must be one of auto, tiny, paired.',
  )
})
