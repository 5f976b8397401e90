import { expect, test } from 'vitest'
import { createPromptCache } from '../../../../gpu-fn/pipeline/prompt/prompt-cache.ts'

/** 4,000 bytes. */
const createEncoded = () => ({
  prompts: [{ embeds: new Float32Array(900), rows: 1, pooled: new Float32Array(100) }],
  truncations: [],
})

/** Creates a cache. The returned function gets a prompt and returns whether this encoded it. */
function start(limit: number) {
  const cache = createPromptCache(limit)
  return async (tenant: string, prompt: string) => {
    let isEncoded = false
    await cache.get(tenant, prompt, async () => {
      isEncoded = true
      return createEncoded()
    })
    return isEncoded
  }
}

test('encodes a prompt once for each tenant', async () => {
  const isEncoded = start(100_000)
  expect([await isEncoded('a', 'cat'), await isEncoded('a', 'cat')]).toEqual([true, false])
  expect([await isEncoded('b', 'cat'), await isEncoded('a', 'dog')]).toEqual([true, true])
})

test('drops the least recently used prompts, and a tenant does not displace those of others', async () => {
  const isEncoded = start(20_000)
  await isEncoded('b', 'kept')
  for (const prompt of ['1', '2']) await isEncoded('a', prompt)
  await isEncoded('a', '1')
  for (const prompt of ['3']) await isEncoded('a', prompt)
  expect(await isEncoded('a', '1')).toBe(false)
  expect(await isEncoded('a', '2')).toBe(true)
  expect(await isEncoded('b', 'kept')).toBe(false)
})

test('stores nothing with a limit of 0, or after a failed encoding', async () => {
  const isEncoded = start(0)
  expect([await isEncoded('a', 'cat'), await isEncoded('a', 'cat')]).toEqual([true, true])
  const cache = createPromptCache(100_000)
  await expect(cache.get('a', 'cat', () => Promise.reject(new Error('broken')))).rejects.toThrow('broken')
  expect(await cache.get('a', 'cat', async () => createEncoded())).toMatchObject({ truncations: [] })
})
