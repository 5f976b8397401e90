import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { parseEnv } from 'node:util'
import { describe, expect, test } from 'vitest'
import {
  createSecrets,
  formatSecrets,
  gpuPublicKeyOf,
  parseSecrets,
  rotateSecrets,
} from '../../../infra/operator/secrets.ts'

const read = (name: string) => readFile(path.join(import.meta.dirname, '../../..', name), 'utf8')

describe('secrets', () => {
  test('match the declarations in wrangler.toml', async () => {
    const names = Object.keys((await createSecrets()).secrets).sort()
    const declared = /^required = (\[.*\])$/m.exec(await read('wrangler.toml'))![1]!
    expect((JSON.parse(declared) as string[]).sort()).toEqual(names)
  })

  test('are documented but not set in .dev.vars.example, along with the command that creates them', async () => {
    const example = await read('.dev.vars.example')
    expect(parseEnv(example)).toEqual({})
    for (const name of Object.keys((await createSecrets()).secrets)) expect(example).toContain(`\n# ${name}=\n`)
    expect(example).toContain('npm run keys -- secrets --out .dev.vars')
  })

  test('are parsed from their own output format', async () => {
    const { secrets, gpuPublicKey } = await createSecrets()
    expect(parseSecrets(formatSecrets(secrets, gpuPublicKey))).toEqual(secrets)
    expect(JSON.parse(gpuPublicKeyOf(secrets))).toEqual(JSON.parse(gpuPublicKey))
  })

  test('rotate: a new pepper and a new receipt key are first, and all other secrets are unchanged', async () => {
    const { secrets } = await createSecrets()
    const twice = await rotateSecrets(await rotateSecrets(secrets))
    expect(twice.KEY_PEPPER.split(',').map((pair) => pair[0])).toEqual(['3', '2', '1'])
    expect(twice.KEY_PEPPER.endsWith(secrets.KEY_PEPPER)).toBe(true)
    const keys = JSON.parse(twice.RECEIPT_SIGNING_KEYS) as { kid: string }[]
    expect(keys.slice(2)).toEqual(JSON.parse(secrets.RECEIPT_SIGNING_KEYS))
    expect(new Set(keys.map(({ kid }) => kid)).size).toBe(3)
    expect(twice).toMatchObject({
      GPU_SIGNING_KEY: secrets.GPU_SIGNING_KEY,
      OCTET_ADMIN_TOKEN: secrets.OCTET_ADMIN_TOKEN,
    })
  })

  test('of other services are unchanged by a rotation', async () => {
    const { secrets, gpuPublicKey } = await createSecrets()
    const others = { STRIPE_SECRET_KEY: 'sk_live_1', MODERATION_API_KEY: 'sk-moderation' }
    const file = formatSecrets({ ...secrets, ...others }, gpuPublicKey)
    const rotated = formatSecrets(await rotateSecrets(parseSecrets(file)), gpuPublicKey)
    expect(parseSecrets(rotated)).toMatchObject(others)
  })

  test('are refused if one is missing or has no versions', async () => {
    const { secrets } = await createSecrets()
    expect(() => parseSecrets("KEY_PEPPER='1:x'")).toThrow('GPU_SIGNING_KEY is missing from the secrets')
    const all = [...'123456789abcdefghijklmnopqrstuvwxyz'].map((version) => `${version}:secret`).join(',')
    await expect(rotateSecrets({ ...secrets, KEY_PEPPER: all })).rejects.toThrow('remove the last one first')
  })
})
