import { readFile, rm } from 'node:fs/promises'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { compile } from '../../../../gpu-fn/compile/compile.ts'
import { writeTinyCheckpoint } from '../../../../infra/checkpoints/tiny/checkpoint.ts'
import { render, withPipeline } from '../../../../infra/local/models/render.ts'
import { readPixels } from '../../../../infra/receipts/compare-images.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
const request = {
  prompt: 'a red heart on a blue sky, ﬁve ①',
  negative_prompt: '',
  seed: 3,
  steps: 2,
  width: 32,
  height: 32,
}

const pixelsOf = async (directory: string) => {
  const image = await withPipeline(directory, (pipeline) => render(pipeline, { ...request, guidance_scale: 3 }))
  return (await readPixels(image)).data
}

async function compileWith(
  change: (checkpoint: string) => Promise<unknown>,
  tokenizers: { tokenizers?: string; hub?: string },
) {
  const checkpoint = await writeTinyCheckpoint(path.join(scratch.directory, 'checkpoint'))
  await change(checkpoint)
  const out = path.join(scratch.directory, 'package')
  await compile({ checkpoint: [checkpoint], out, tier: 'fp32', target: 'cpu', variant: 'custom', ...tokenizers })
  return out
}

test('spiece.model alone results in the same image as tokenizer.json', async () => {
  const out = await compileWith((checkpoint) => rm(path.join(checkpoint, 'tokenizer_3/tokenizer.json')), {})
  expect(await pixelsOf(out)).toEqual(await pixelsOf(await compileTiny({})))
})

test('--tokenizers hub results in the same image as the tokenizers of the repository', async () => {
  const folders = { 'openai/clip-vit-large-patch14': 'tokenizer', 'google/t5-v1_1-xxl': 'tokenizer_3' }
  const checkpoint = path.join(scratch.directory, 'checkpoint')
  const served = path.join(import.meta.dirname, '../../../../infra/checkpoints/tiny/tokenizers')
  const server = http.createServer(async (incoming, response) => {
    const [repo, folder] = Object.entries(folders).find(([repo]) => incoming.url!.startsWith(`/${repo}/resolve/`))!
    expect(incoming.url!.slice(repo.length + 2)).toMatch(/^resolve\/[0-9a-f]{40}\//)
    const content = await readFile(path.join(served, folder, path.basename(incoming.url!)))
    const [, from = '0', to] = /^bytes=(\d+)-(\d*)$/.exec(incoming.headers.range ?? '') ?? []
    const part = content.subarray(Number(from), to ? Number(to) + 1 : undefined)
    const range = `bytes ${from}-${Number(from) + part.length - 1}/${content.length}`
    response.writeHead(206, { etag: '"e"', 'content-length': part.length, 'content-range': range }).end(part)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const hub = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const removeAll = async () => {
    for (const name of ['tokenizer', 'tokenizer_2', 'tokenizer_3'])
      await rm(path.join(checkpoint, name), { recursive: true })
  }
  const out = await compileWith(removeAll, { tokenizers: 'hub', hub })
  expect(await pixelsOf(out)).toEqual(await pixelsOf(await compileTiny({})))
})
