import { expect, test } from 'vitest'
import { nameOf, sourceOf } from '../../../../infra/local/models/served-models.ts'

test('a name that is neither a file nor a repository is refused', async () => {
  await expect(sourceOf('no-such-file')).rejects.toThrow('no-such-file: no such file or directory, and not the name')
  expect(await sourceOf('stabilityai/stable-diffusion-3.5-large', 'full')).toMatchObject({ kind: 'hub', route: 'full' })
})

test.each([
  ['stabilityai/stable-diffusion-3.5-large-turbo', 'large-turbo'],
  ['/models/My Model_v2.safetensors', 'my-model-v2'],
  ['/models/---', 'model'],
])('%s is served as %s', (given, name) => {
  expect(nameOf(given)).toBe(name)
})
