import { expect, test } from 'vitest'
import { signGpuToken } from '../../../edge/gpu/token.ts'
import { readConfig } from '../../../gpu-fn/config.ts'
import { verifyToken } from '../../../gpu-fn/server/requests/auth.ts'
import { type Rotation, rotateDeployed } from '../../../infra/deploy/rotate.ts'
import type { SecretsFile } from '../../../infra/deploy/secrets-file.ts'
import { createSecrets } from '../../../infra/operator/secrets.ts'

async function createDeployment(): Promise<SecretsFile> {
  const { secrets, gpuPublicKey } = await createSecrets()
  const bucket = { OCTET_BUCKET: 'https://s3.test/b', OCTET_BUCKET_KEY_ID: 'id', OCTET_BUCKET_SECRET: 'secret' }
  return { worker: secrets, gpuPublicKey, proxyHeaders: { default: { 'modal-key': 'wk' }, spare: { a: 'b' } }, bucket }
}

/** Whether a GPU function with the secrets of one file accepts tokens of a worker with the secrets of another. */
async function isAccepted(gpu: SecretsFile, worker: SecretsFile): Promise<boolean> {
  const { edgePublicKeys } = readConfig({ OCTET_PACKAGES: '/packages', OCTET_EDGE_PUBLIC_KEY: gpu.gpuPublicKey })
  const token = await signGpuToken(worker.worker.GPU_SIGNING_KEY, 'job', 1, '{}')
  return verifyToken(edgePublicKeys!, `Bearer ${token}`).then(
    () => true,
    () => false,
  )
}

test('the key between worker and GPU function is rotated without an interruption', async () => {
  const old = await createDeployment()
  const both = await rotateDeployed(old, 'gpu')
  expect(await isAccepted(both, old)).toBe(true)
  expect(await isAccepted(both, both)).toBe(true)
  const finished = await rotateDeployed(both, 'gpu-finish')
  expect(await isAccepted(finished, finished)).toBe(true)
  expect(await isAccepted(finished, old)).toBe(false)
  await expect(rotateDeployed(both, 'gpu')).rejects.toThrow('run `rotate gpu-finish` and deploy first')
})

test.each<[Rotation, string[]]>([
  ['keys', ['KEY_PEPPER', 'RECEIPT_SIGNING_KEYS']],
  ['admin', ['OCTET_ADMIN_TOKEN']],
  ['gpu', ['GPU_SIGNING_KEY']],
  ['gpu-finish', []],
  ['proxy', []],
  ['bucket', []],
])('%s changes %j of the worker and nothing else of it', async (which, names) => {
  const before = await createDeployment()
  const after = await rotateDeployed(before, which)
  const changed = Object.keys(before.worker).filter(
    (name) => before.worker[name as never] !== after.worker[name as never],
  )
  expect(changed.sort()).toEqual(names.sort())
})

test('a proxy token and the keys of the bucket are rotated by the next deployment', async () => {
  const before = await createDeployment()
  expect((await rotateDeployed(before, 'proxy')).proxyHeaders).toEqual({ spare: { a: 'b' } })
  expect((await rotateDeployed(before, 'bucket')).bucket).toBeUndefined()
})
