import { expect, test } from 'vitest'
import { listFilesInLoadOrder, sortForLoad } from '../../../gpu-fn/weights/load-order.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'

test('the denoiser loads after everything that can run before it', () => {
  const networks = ['clip_l', 't5', 'conditioning', 'transformer', 'vae_decoder', 'vae_encoder']
  expect(sortForLoad(networks)).toEqual(['vae_decoder', 'clip_l', 't5', 'conditioning', 'transformer', 'vae_encoder'])
})

test('graphs and tokenizers are the first files, and each file is listed once', async () => {
  const { manifest } = await openPackage(await compileTiny({ tier: 'fp8' }))
  const names = listFilesInLoadOrder(manifest).map(([name]) => name)
  expect(names.toSorted()).toEqual(Object.keys(manifest.files).toSorted())
  const weights = names.filter((name) => name.endsWith('.weights'))
  expect(names.slice(-weights.length)).toEqual(weights)
  expect(weights.slice(-3)).toEqual(['conditioning.weights', 'transformer.weights', 'vae_encoder.weights'])
})
