// Standard Webhooks 1.0 signatures: `v1` is HMAC-SHA256 under a shared secret, `v1a` is Ed25519. github.com/standard-webhooks/standard-webhooks

export const SCHEMES = ['hmac', 'ed25519'] as const
export type Scheme = (typeof SCHEMES)[number]
/** `secret` signs: `whsec_…` or `whsk_…`. `shown` is the receiver's verification key: the same `whsec_…`, or the public `whpk_…`. */
export type SigningKey = { scheme: Scheme; secret: string; shown: string }
type Message = { id: string /** Unix seconds. */; timestamp: number; body: string }

const HMAC = { name: 'HMAC', hash: 'SHA-256' }
const utf8 = new TextEncoder()
const bytesOf = (key: string) => Uint8Array.fromBase64(key.slice(key.indexOf('_') + 1))

/** A new key of 256 bits. A private Ed25519 key is kept as PKCS #8. */
export async function newSigningKey(scheme: Scheme): Promise<SigningKey> {
  if (scheme === 'hmac') {
    const secret = `whsec_${crypto.getRandomValues(new Uint8Array(32)).toBase64()}`
    return { scheme, secret, shown: secret }
  }
  const pair = (await crypto.subtle.generateKey('Ed25519', true, ['sign', 'verify'])) as CryptoKeyPair
  const [secret, shown] = await Promise.all([
    crypto.subtle.exportKey('pkcs8', pair.privateKey) as Promise<ArrayBuffer>,
    crypto.subtle.exportKey('raw', pair.publicKey) as Promise<ArrayBuffer>,
  ])
  return {
    scheme,
    secret: `whsk_${new Uint8Array(secret).toBase64()}`,
    shown: `whpk_${new Uint8Array(shown).toBase64()}`,
  }
}

/** A new key of each scheme. Created by the caller of an object, so that a repeated call has the same keys. */
export async function newSigningKeys(): Promise<Record<Scheme, SigningKey>> {
  const [hmac, ed25519] = await Promise.all([newSigningKey('hmac'), newSigningKey('ed25519')])
  return { hmac, ed25519 }
}

async function computeSignature({ scheme, secret }: SigningKey, content: BufferSource): Promise<string> {
  const [format, algorithm, version] =
    scheme === 'hmac' ? (['raw', HMAC, 'v1'] as const) : (['pkcs8', 'Ed25519', 'v1a'] as const)
  const key = await crypto.subtle.importKey(format, bytesOf(secret), algorithm, false, ['sign'])
  return `${version},${new Uint8Array(await crypto.subtle.sign(algorithm, key, content)).toBase64()}`
}

/** The three headers of a message, with one signature for each key. */
export async function createSignedHeaders({ id, timestamp, body }: Message, keys: readonly SigningKey[]) {
  const content = utf8.encode(`${id}.${timestamp}.${body}`)
  const signatures = await Promise.all(keys.map((key) => computeSignature(key, content)))
  return {
    'webhook-id': id,
    'webhook-timestamp': String(timestamp),
    'webhook-signature': signatures.join(' '),
  }
}
