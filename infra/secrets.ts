// Fresh secrets for a deployment: what the worker needs, and the public half that the GPU function gets.
import { randomBytes } from 'node:crypto'
import { exportJWK, generateKeyPair } from 'jose'

/** The worker's secrets, as `.dev.vars` and `wrangler secret put` name them. */
export type Secrets = { KEY_PEPPER: string; GPU_SIGNING_KEY: string; OCTET_ADMIN_TOKEN: string }

/** Makes random secrets. `gpuPublicKey` is a JWK for the GPU function's OCTET_EDGE_PUBLIC_KEY. */
export async function createSecrets(): Promise<{ secrets: Secrets; gpuPublicKey: string }> {
  const { privateKey, publicKey } = await generateKeyPair('EdDSA', { extractable: true })
  const secrets = {
    KEY_PEPPER: `1:${randomBytes(32).toString('hex')}`,
    GPU_SIGNING_KEY: JSON.stringify(await exportJWK(privateKey)),
    OCTET_ADMIN_TOKEN: randomBytes(32).toString('hex'),
  }
  return { secrets, gpuPublicKey: JSON.stringify(await exportJWK(publicKey)) }
}

/** The same as the text of a `.dev.vars` file. */
export function formatSecrets(secrets: Secrets, gpuPublicKey: string): string {
  const lines = Object.entries(secrets).map(([name, value]) => `${name}='${value}'`)
  return [
    ...lines,
    '# For the GPU function, not for the worker:',
    `# OCTET_EDGE_PUBLIC_KEY='${gpuPublicKey}'`,
    '',
  ].join('\n')
}
