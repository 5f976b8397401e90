// Rotation of secrets without interruption. Each rotation changes the secrets file; the next deploy applies it.
import { randomBytes } from 'node:crypto'
import { createSecrets, rotateSecrets } from '../operator/secrets.ts'
import type { SecretsFile } from './secrets-file.ts'

export const ROTATIONS = {
  keys: 'a new pepper and receipt key as the first ones; API keys and receipts of the old ones stay valid',
  admin: "a new operator's token; the old one ends with the deploy",
  gpu: 'a new key for requests to the GPU function, which accepts both',
  'gpu-finish':
    'the GPU function rejects the old key; use this once the worker has the new one and earlier jobs have ended',
  proxy: 'a new proxy token; delete the old one with `modal workspace proxy-tokens delete` after the deploy',
  bucket: "the next deploy asks for the bucket's keys again",
} as const
export type Rotation = keyof typeof ROTATIONS

const parseKeys = (jwks: string) => [JSON.parse(jwks)].flat() as { x: string }[]

/**
 * The secrets after one rotation. A deploy updates the GPU function first, so that it accepts a new key before the worker signs with it.
 */
export async function rotateDeployed(secrets: SecretsFile, which: Rotation): Promise<SecretsFile> {
  const { worker, proxyHeaders, gpuPublicKey } = secrets
  switch (which) {
    case 'keys':
      return { ...secrets, worker: { ...worker, ...(await rotateSecrets(worker as never)) } }
    case 'admin':
      return { ...secrets, worker: { ...worker, OCTET_ADMIN_TOKEN: randomBytes(32).toString('hex') } }
    case 'gpu': {
      if (parseKeys(gpuPublicKey).length > 1)
        throw new Error(
          'the GPU function still accepts the key of the last rotation: run `rotate gpu-finish` and deploy first',
        )
      const fresh = await createSecrets()
      const both = JSON.stringify([...parseKeys(fresh.gpuPublicKey), ...parseKeys(gpuPublicKey)])
      return { ...secrets, worker: { ...worker, GPU_SIGNING_KEY: fresh.secrets.GPU_SIGNING_KEY }, gpuPublicKey: both }
    }
    case 'gpu-finish':
      return { ...secrets, gpuPublicKey: JSON.stringify(parseKeys(gpuPublicKey)[0]) }
    case 'proxy': {
      const { default: _, ...others } = proxyHeaders
      return { ...secrets, proxyHeaders: others }
    }
    case 'bucket': {
      const { bucket: _, ...rest } = secrets
      return rest
    }
  }
}
