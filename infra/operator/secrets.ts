// The secrets of a deployment: those of the worker, and the public key for the GPU function.
import { randomBytes } from 'node:crypto'
import { parseEnv } from 'node:util'
import { calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK } from 'jose'

/** The worker's secrets, with the names of `.dev.vars` and `wrangler secret put`. */
export type Secrets = {
  KEY_PEPPER: string
  GPU_SIGNING_KEY: string
  OCTET_ADMIN_TOKEN: string
  RECEIPT_SIGNING_KEYS: string
  /** Enables reports of usage to Stripe. */
  STRIPE_SECRET_KEY?: string
  /** The key of the moderation service. */
  MODERATION_API_KEY?: string
  /** Request headers of the worker's span exporter. */
  OTEL_EXPORTER_OTLP_HEADERS?: string
}

/** Creates random secrets. `gpuPublicKey` is a JWK for the GPU function's OCTET_EDGE_PUBLIC_KEY. */
export async function createSecrets(): Promise<{ secrets: Secrets; gpuPublicKey: string }> {
  const { privateKey, publicKey } = await generateKeyPair('EdDSA', { extractable: true })
  const secrets = {
    KEY_PEPPER: `1:${randomBytes(32).toString('hex')}`,
    GPU_SIGNING_KEY: JSON.stringify(await exportJWK(privateKey)),
    OCTET_ADMIN_TOKEN: randomBytes(32).toString('hex'),
    RECEIPT_SIGNING_KEYS: JSON.stringify([await createReceiptKey()]),
  }
  return { secrets, gpuPublicKey: JSON.stringify(await exportJWK(publicKey)) }
}

/** Creates a private key for receipts, with its RFC 7638 thumbprint as id. To rotate, insert it as the first of RECEIPT_SIGNING_KEYS. */
export async function createReceiptKey(): Promise<JWK & { kid: string }> {
  const { privateKey } = await generateKeyPair('EdDSA', { extractable: true })
  const key = await exportJWK(privateKey)
  return { ...key, kid: await calculateJwkThumbprint(key) }
}

const VERSIONS = '123456789abcdefghijklmnopqrstuvwxyz'

/**
 * Adds a new pepper and a new receipt key as the first ones of their lists. API keys and receipts of earlier ones stay valid. Throws if all
 * pepper versions are in use.
 */
export async function rotateSecrets(secrets: Secrets): Promise<Secrets> {
  const taken = secrets.KEY_PEPPER.split(',').map((pair) => pair.trim()[0])
  const version = [...VERSIONS].find((each) => !taken.includes(each))
  if (!version) throw new Error('KEY_PEPPER has peppers of all versions from 1 to z; remove the last one first')
  const keys = JSON.parse(secrets.RECEIPT_SIGNING_KEYS) as unknown[]
  return {
    ...secrets,
    KEY_PEPPER: `${version}:${randomBytes(32).toString('hex')},${secrets.KEY_PEPPER}`,
    RECEIPT_SIGNING_KEYS: JSON.stringify([await createReceiptKey(), ...keys]),
  }
}

/** Parses the secrets of a `.dev.vars` file. Throws with the name of a missing one. */
export function parseSecrets(text: string): Secrets {
  const found = parseEnv(text)
  const take = (name: keyof Secrets) => {
    const secret = found[name]
    if (!secret) throw new Error(`${name} is missing from the secrets`)
    return secret
  }
  const { STRIPE_SECRET_KEY, MODERATION_API_KEY } = found
  return {
    KEY_PEPPER: take('KEY_PEPPER'),
    GPU_SIGNING_KEY: take('GPU_SIGNING_KEY'),
    OCTET_ADMIN_TOKEN: take('OCTET_ADMIN_TOKEN'),
    RECEIPT_SIGNING_KEYS: take('RECEIPT_SIGNING_KEYS'),
    ...(STRIPE_SECRET_KEY && { STRIPE_SECRET_KEY }),
    ...(MODERATION_API_KEY && { MODERATION_API_KEY }),
  }
}

/** The public key for the GPU function, of the private key that signs requests to it. */
export function gpuPublicKeyOf({ GPU_SIGNING_KEY }: Secrets): string {
  const { d: _, ...publicKey } = JSON.parse(GPU_SIGNING_KEY) as JWK
  return JSON.stringify(publicKey)
}

/** Formats the secrets as a `.dev.vars` file. */
export function formatSecrets(secrets: Secrets, gpuPublicKey: string): string {
  const lines = Object.entries(secrets).map(([name, value]) => `${name}='${value}'`)
  return [
    ...lines,
    '# For the GPU function, not for the worker:',
    `# OCTET_EDGE_PUBLIC_KEY='${gpuPublicKey}'`,
    '',
  ].join('\n')
}
