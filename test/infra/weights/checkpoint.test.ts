import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test, vi } from 'vitest'
import { createNoise } from '../../../infra/checkpoints/fake-package.ts'
import { fetchCheckpoint } from '../../../infra/weights/checkpoint.ts'
import { startHub } from '../../support/hub-stub.ts'
import { useScratch } from '../../support/scratch.ts'
import { startTroubleProxy } from '../../support/weights/trouble-proxy.ts'

const scratch = useScratch()
const REPO = 'black-forest-labs/flux-test'

test('a repository of another model is refused before its weights are downloaded', async () => {
  const source = path.join(scratch.directory, 'source')
  await mkdir(path.join(source, 'transformer'), { recursive: true })
  await writeFile(path.join(source, 'transformer/diffusion_pytorch_model.safetensors'), createNoise(10_000))
  await writeFile(path.join(source, 'model_index.json'), JSON.stringify({ _class_name: 'FluxPipeline' }))
  const token = 'hf_token'
  vi.stubEnv('HF_TOKEN', token)
  const hub = await startHub(source, { repo: REPO, token })
  const proxy = await startTroubleProxy(hub.url, () => 'none')
  const fetching = fetchCheckpoint({ repo: REPO, hub: proxy.url, directory: scratch.directory, tier: 'fp8' })
  await expect(fetching).rejects.toThrow('_class_name is "FluxPipeline"; allowed: ^StableDiffusion3')
  expect(proxy.requests.filter(({ path }) => path.endsWith('.safetensors'))).toEqual([])
  proxy.close()
  hub.close()
})
