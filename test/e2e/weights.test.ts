import { execFile } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { NANO } from '../../infra/local/models/built-in-model.ts'
import { startBucket } from '../../infra/local/servers/bucket.ts'
import { readJobStream, type StreamEntry } from '../../infra/system/job-stream.ts'
import { putJob } from '../support/gpu/client.ts'
import { startGpuProcess } from '../support/gpu/process.ts'
import { startHub } from '../support/hub-stub.ts'
import { useScratch } from '../support/scratch.ts'

const scratch = useScratch()
const ROOT = path.join(import.meta.dirname, '../..')

test('from the hub to an image: npm run weights, then a GPU function with only the bucket as its source', async () => {
  const hub = await startHub(NANO, { repo: 'octet/nano', token: 'hf_test' })
  const bucket = await startBucket(path.join(scratch.directory, 'bucket'))
  const { url, accessKeyId, secretAccessKey, region } = bucket.address
  const access = {
    OCTET_BUCKET_KEY_ID: accessKeyId,
    OCTET_BUCKET_SECRET: secretAccessKey,
    OCTET_BUCKET_REGION: region!,
  }
  const options = ['--variant', 'nano', '--repo', 'octet/nano', '--target', 'cpu', '--hub', hub.url, '--bucket', url]
  const weights = () =>
    promisify(execFile)(
      process.execPath,
      ['infra/weights/main.ts', ...options, '--directory', path.join(scratch.directory, 'weights')],
      { cwd: ROOT, env: { ...process.env, ...access, HF_TOKEN: 'hf_test' } },
    )
  try {
    const first = await weights()
    expect(first.stderr).toContain('Apache-2.0')
    expect(first.stdout).toMatch(/MB sent, 0\.0 MB already present; package [0-9a-f]{64} is now served/)
    expect((await weights()).stdout).toMatch(
      /0\.0 MB sent, [\d.]+ MB already present; package [0-9a-f]{64} was already served/,
    )

    const cache = path.join(scratch.directory, 'cache')
    const env = {
      OCTET_PACKAGES: '',
      OCTET_BUCKET: url,
      ...access,
      OCTET_MODELS: 'nano:fp8',
      OCTET_TARGET: 'cpu',
      OCTET_CACHE: cache,
    }
    await using gpu = await startGpuProcess('', env)
    expect(await gpu.ready()).toEqual([503, 200])
    const reply = await putJob(gpu.url, 'j', {
      model: 'nano',
      width: 256,
      height: 256,
      prompt: 'a red heart',
      steps: 2,
    })
    const entries: StreamEntry[] = []
    for await (const entry of readJobStream(reply.body!)) entries.push(entry)
    expect(entries.filter(({ event }) => event.type === 'image')).toHaveLength(1)
    expect(entries.at(-1)!.event).toMatchObject({ type: 'succeeded' })
    expect(await readdir(path.join(cache, 'packages'))).toHaveLength(1)

    const other = path.join(scratch.directory, 'other-cache')
    await using sequential = await startGpuProcess('', { ...env, OCTET_CACHE: other, OCTET_SEQUENTIAL_START: '1' })
    await sequential.ready()
    expect(await readdir(other)).not.toContain('links')
  } finally {
    hub.close()
    await bucket.stop()
  }
})
