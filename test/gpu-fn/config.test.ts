import { generateKeyPairSync } from 'node:crypto'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { ConfigError, readConfig } from '../../gpu-fn/config.ts'
import { TIERS } from '../../gpu-fn/contract.ts'

const { publicKey, privateKey } = generateKeyPairSync('ed25519')
const pem = publicKey.export({ type: 'spki', format: 'pem' }).toString()
const good = { OCTET_PACKAGES: '/packages', OCTET_EDGE_PUBLIC_KEY: pem }

function refusal(variables: Record<string, string | undefined>): string {
  try {
    readConfig(variables)
  } catch (error) {
    if (error instanceof ConfigError) return error.message
    throw error
  }
  throw new Error('expected a ConfigError')
}

test('fills in defaults and listens on every interface', () => {
  expect(readConfig({ ...good, PORT: '' })).toMatchObject({
    port: 8080,
    host: '0.0.0.0',
    packages: '/packages',
    queue: 64,
    agingSeconds: 60,
    promptCacheBytes: 128 * 1024 * 1024,
    retainSeconds: 300,
    unreadSeconds: 10,
    stallSeconds: 60,
    cache: path.join(tmpdir(), 'octet-packages'),
    preload: [],
    drainSeconds: 120,
    logLevel: 'info',
  })
})

test('reads a budget in gigabytes and the sizes for the warm-up', () => {
  expect(readConfig(good)).toMatchObject({
    deviceBytes: undefined,
    devices: 1,
    warm: undefined,
    sequentialStart: false,
  })
  expect(readConfig({ ...good, OCTET_DEVICES: '2' })).toMatchObject({ devices: 2 })
  expect(readConfig({ ...good, OCTET_SEQUENTIAL_START: '1' })).toMatchObject({ sequentialStart: true })
  expect(readConfig(good).capture).toBe(false)
  expect(readConfig({ ...good, OCTET_STEP_GRAPHS: '1' }).capture).toBe(true)
  expect(readConfig({ ...good, OCTET_STEP_GRAPHS: '0' }).capture).toBe(false)
  expect(refusal({ ...good, OCTET_STEP_GRAPHS: 'yes' })).toBe('OCTET_STEP_GRAPHS must be 0 or 1; given "yes"')
  expect(refusal({ ...good, OCTET_DEVICES: '0' })).toBe('OCTET_DEVICES must be an integer from 1 to 16; given "0"')
  const config = readConfig({ ...good, OCTET_VRAM_GB: '7.5', OCTET_WARM: '1024x1024,1024x768' })
  expect(config.deviceBytes).toBe(7.5 * 2 ** 30)
  expect(config.warm).toEqual([
    { width: 1024, height: 1024 },
    { width: 1024, height: 768 },
  ])
  expect(refusal({ ...good, OCTET_VRAM_GB: '8GB', OCTET_WARM: '1024' })).toBe(
    `OCTET_VRAM_GB must be a number of gigabytes, such as 8 or 23.5; given "8GB"
OCTET_WARM must be width x height, or several with commas, such as 1024x1024,1024x768; given "1024"`,
  )
})

test('reads the given values', () => {
  const config = readConfig({
    ...{ ...good, PORT: '9000', OCTET_QUEUE: '0', OCTET_PRELOAD: 'nano:fp8,large-turbo:fp8-lite' },
    ...{ OCTET_UNREAD_SECONDS: '3', OCTET_STALL_SECONDS: '5', OCTET_CACHE: '/cache' },
  })
  expect(config).toMatchObject({ port: 9000, queue: 0, unreadSeconds: 3, stallSeconds: 5, cache: '/cache' })
  expect(config.preload).toEqual([
    ['nano', 'fp8'],
    ['large-turbo', 'fp8-lite'],
  ])
})

test('accepts one or several keys as JWKs', () => {
  const next = generateKeyPairSync('ed25519').publicKey
  const [first, second] = [publicKey, next].map((key) => key.export({ format: 'jwk' }))
  for (const [given, keys] of [
    [first, [publicKey]],
    [
      [second, first],
      [next, publicKey],
    ],
  ] as const) {
    const read = readConfig({ ...good, OCTET_EDGE_PUBLIC_KEY: JSON.stringify(given) }).edgePublicKeys
    expect(read?.map((key, k) => key.equals(keys[k]!))).toEqual(keys.map(() => true))
  }
})

test.each([
  [{ PORT: '80a' }, 'PORT must be an integer from 0 to 65535; given "80a"'],
  [{ PORT: '65536' }, 'PORT must be an integer from 0 to 65535; given "65536"'],
  [{ OCTET_QUEUE: '-1' }, 'OCTET_QUEUE must be an integer from 0 to 10000; given "-1"'],
  [
    { OCTET_PACKAGES: '' },
    'OCTET_PACKAGES must name the directory that holds the compiled packages, or OCTET_BUCKET a bucket that has them; neither is set',
  ],
  [
    { OCTET_BUCKET: 'https://b' },
    'OCTET_MODELS must list the packages of OCTET_BUCKET to serve, as model:tier; it is not set',
  ],
  [{ OCTET_MODELS: 'large:fp8' }, 'OCTET_BUCKET must be set together with OCTET_MODELS'],
  [{ OCTET_BUCKET: 'weights' }, 'OCTET_BUCKET must be the address of an S3-compatible bucket; given "weights"'],
  [{ OCTET_TARGET: 'rocm' }, 'OCTET_TARGET must be cpu, cuda or cuda-fp8; given "rocm"'],
  [{ OCTET_INSECURE: 'yes' }, 'OCTET_INSECURE must be 1 or not set; given "yes"'],
  [{ LOG_LEVEL: 'loud' }, 'LOG_LEVEL must be one of fatal, error, warn, info, debug, trace, silent; given "loud"'],
  [
    { OCTET_PRELOAD: 'nano:fp9' },
    `OCTET_PRELOAD must be model:tier, or several with commas between them, where tier is one of ${TIERS.join(', ')}; given "nano:fp9"`,
  ],
])('names the invalid variable: %o', (variables, message) => {
  expect(refusal({ ...good, ...variables })).toBe(message)
})

test('names every invalid variable', () => {
  expect(refusal({ PORT: 'x', OCTET_QUEUE: 'y', OCTET_TARGET: 'z' }).split('\n')).toHaveLength(3)
})

test('requires the key, except for insecure access from loopback only', () => {
  expect(refusal({ OCTET_PACKAGES: '/packages' })).toMatch(/^OCTET_EDGE_PUBLIC_KEY .* it is not set/)
  const insecure = { OCTET_PACKAGES: '/packages', OCTET_INSECURE: '1' }
  expect(readConfig(insecure)).toMatchObject({ edgePublicKeys: null, host: '127.0.0.1' })
  expect(refusal({ ...insecure, HOST: '0.0.0.0' })).toMatch(/^HOST must be one of 127\.0\.0\.1.*given "0\.0\.0\.0"$/)
  expect(refusal({ ...good, OCTET_INSECURE: '1' })).toMatch(/^OCTET_INSECURE must not be set together/)
})

test.each([
  ['a private PEM', privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()],
  ['a private JWK', JSON.stringify(privateKey.export({ format: 'jwk' }))],
  ['another kind of key', generateKeyPairSync('x25519').publicKey.export({ type: 'spki', format: 'pem' }).toString()],
  ['no key', 'ed25519'],
  ['an empty list', '[]'],
  ['a private one among others', JSON.stringify([publicKey, privateKey].map((key) => key.export({ format: 'jwk' })))],
])('refuses %s without quoting it', (_, text) => {
  expect(refusal({ ...good, OCTET_EDGE_PUBLIC_KEY: text })).toBe(
    'OCTET_EDGE_PUBLIC_KEY must be the Ed25519 public key of the edge, as a JWK, as a JSON array of them, or as SPKI PEM',
  )
})
