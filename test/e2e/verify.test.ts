// Receipts of the whole system, verified offline by `npm run verify`, including receipts and files changed by an attacker.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { CompactSign, decodeJwt, exportJWK, generateKeyPair, type JWK } from 'jose'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RECEIPT, type ReceiptClaims } from '../../edge/results/receipt.ts'
import { startLocal } from '../../infra/local/local.ts'

const VERIFY = path.join(import.meta.dirname, '../../infra/receipts/verify.ts')
const PROMPT = 'a heron in the reeds'
const prompts = ['--prompt', PROMPT, '--negative-prompt', 'fog', '--prompt-2', 'a bird', '--prompt-3', 'two fish']

let scratch: string
let receipt: string
const resolvePath = (name: string) => path.join(scratch, name)
const save = (name: string, data: string | Uint8Array) =>
  fs.writeFile(resolvePath(name), data).then(() => resolvePath(name))

beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-verify-'))
  const local = await startLocal()
  try {
    const headers = { authorization: `Bearer ${local.key}`, 'content-type': 'application/json' }
    const get = (address: string) => fetch(new URL(address, local.url), { headers })
    const own = { prompt_2: 'a bird', prompt_3: 'two fish', max_sequence_length: 128 }
    const fields = { prompt: PROMPT, negative_prompt: 'fog', n: 2, seed: '18446744073709551614', size: '64x64', ...own }
    const body = JSON.stringify({ ...fields, route: 'full' })
    const reply = await fetch(`${local.url}/v1/images/generations`, { method: 'POST', headers, body })
    const { data, octet } = (await reply.json()) as { data: { url: string }[]; octet: { job: string } }
    await save('image.png', await (await get(data[1]!.url)).bytes())
    await save('receipts.json', await (await get(`/v1/jobs/${octet.job}/receipts`)).text())
    await save('jwks.json', await (await get('/.well-known/jwks.json')).text())
  } finally {
    await local.stop()
  }
  const { data } = JSON.parse(await fs.readFile(resolvePath('receipts.json'), 'utf8')) as {
    data: { receipt: string }[]
  }
  receipt = data[1]!.receipt
})
afterAll(() => fs.rm(scratch, { recursive: true }))

type CommandOutcome = { code: number; stdout: string; stderr: string }
const verify = (file: string, proof: string, jwks: string, ...more: string[]): Promise<CommandOutcome> =>
  promisify(execFile)(process.execPath, [VERIFY, file, proof, '--jwks', jwks, ...more]).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error) => error,
  )

describe('npm run verify', () => {
  test('accepts a valid receipt and prints the parameters of the image', async () => {
    const { code, stdout, stderr } = await verify(
      resolvePath('image.png'),
      receipt,
      resolvePath('jwks.json'),
      ...prompts,
    )
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const name of ['signature', 'file', 'prompt', 'negative prompt', 'prompt 2', 'prompt 3'])
      expect(stdout).toMatch(new RegExp(`^ok +${name} `, 'm'))
    expect(stdout).toMatch(/64x64 image\/png, quality 90, seed 18446744073709551615/)
    expect(stdout).toMatch(/on .*, \d+ ms of GPU/)
  })

  test('selects the receipt of the file from a list, and skips checks without an argument', async () => {
    const { code, stdout } = await verify(
      resolvePath('image.png'),
      resolvePath('receipts.json'),
      resolvePath('jwks.json'),
    )
    expect([code, /^- +prompt +skipped; set --prompt/m.test(stdout)]).toEqual([0, true])
  })

  test('reproduces the image from the prompts in the file, byte for byte', async () => {
    const { code, stdout } = await verify(resolvePath('image.png'), receipt, resolvePath('jwks.json'), '--reproduce')
    expect(stdout).toMatch(/^ok +reproduction +the same bytes/m)
    expect(code).toBe(0)
  })

  test('detects a file with one changed bit', async () => {
    const bytes = await fs.readFile(resolvePath('image.png'))
    bytes[bytes.length >> 1]! ^= 1
    const { code, stdout } = await verify(await save('changed.png', bytes), receipt, resolvePath('jwks.json'))
    expect([code, /^FAIL +file +SHA-256 is /m.test(stdout)]).toEqual([1, true])
  })

  test('detects a changed receipt and prints none of its claims', async () => {
    const [header, , signature] = receipt.split('.')
    const cheaper = { ...decodeJwt(receipt), price_microdollars: 0 }
    const changed = [header, Buffer.from(JSON.stringify(cheaper)).toString('base64url'), signature].join('.')
    const { code, stdout } = await verify(resolvePath('image.png'), changed, resolvePath('jwks.json'))
    expect([code, stdout.trim().split('\n').length]).toEqual([1, 1])
    expect(stdout).toMatch(/^FAIL +signature /)
  })

  test('detects a different prompt', async () => {
    const { code, stdout } = await verify(
      resolvePath('image.png'),
      receipt,
      resolvePath('jwks.json'),
      '--prompt',
      'a heron',
    )
    expect([code, /^FAIL +prompt +does not match its digest/m.test(stdout)]).toEqual([1, true])
  })

  test('detects a receipt signed with another key, even one with the same key id', async () => {
    const { publicKey } = await generateKeyPair('EdDSA', { extractable: true })
    const { keys } = JSON.parse(await fs.readFile(resolvePath('jwks.json'), 'utf8')) as { keys: JWK[] }
    for (const kid of ['other', keys[0]!.kid]) {
      const jwks = await save('strange.json', JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid }] }))
      const { code, stdout } = await verify(resolvePath('image.png'), receipt, jwks)
      expect([code, /^FAIL +signature /.test(stdout)]).toEqual([1, true])
    }
  })

  test('exits with 2 and names the file that it cannot read', async () => {
    const cases = [
      [await verify(resolvePath('none.png'), receipt, resolvePath('jwks.json')), /no such file/],
      [await verify(resolvePath('image.png'), 'nonsense', resolvePath('jwks.json')), /nonsense is not a receipt/],
      [
        await verify(resolvePath('image.png'), receipt, resolvePath('none.json')),
        /public keys cannot be read from .*none\.json/,
      ],
      [
        await verify(resolvePath('jwks.json'), resolvePath('receipts.json'), resolvePath('jwks.json')),
        /no receipt for a file of SHA-256/,
      ],
      [await verify(resolvePath('image.png'), receipt, resolvePath('jwks.json'), '--unknown'), /unknown option/],
    ] as const
    for (const [{ code, stderr }, message] of cases) {
      expect(stderr).toMatch(message)
      expect(code).toBe(2)
    }
  })
})

describe('an image generated on another device', () => {
  /** The image with each value moved by up to `max`, and a receipt for it under a key of ours. */
  async function writeChanged(
    max: number,
    changes: object = {},
  ): Promise<[file: string, receipt: string, jwks: string]> {
    const { data, info } = await sharp(resolvePath('image.png')).raw().toBuffer({ resolveWithObject: true })
    const moved = data.map((value, i) => Math.min(255, Math.max(0, value + (i % (2 * max + 1)) - max)))
    const file = await sharp(moved, { raw: info }).png().toBuffer()
    const sha256 = createHash('sha256').update(file).digest('hex')
    const claims = {
      ...decodeJwt(receipt),
      file: { sha256, bytes: file.length, content_type: 'image/png' },
      ...changes,
    }
    const { privateKey, publicKey } = await generateKeyPair(RECEIPT.algorithm, { extractable: true })
    const signed = await new CompactSign(Buffer.from(JSON.stringify(claims)))
      .setProtectedHeader({ alg: RECEIPT.algorithm, kid: 'k', typ: RECEIPT.type })
      .sign(privateKey)
    const jwks = JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: 'k' }] })
    return [await save(`moved-${max}.png`, file), signed, await save(`moved-${max}.json`, jwks)]
  }
  test('passes if it is similar enough, and fails otherwise', async () => {
    const near = await verify(...(await writeChanged(1)), '--reproduce', ...prompts)
    expect(near.stdout).toMatch(/^ok +reproduction +other bytes, PSNR [45]\d\.\d dB/m)
    expect(near.code).toBe(0)
    const far = await verify(...(await writeChanged(40)), '--reproduce', ...prompts)
    expect(far.stdout).toMatch(/^FAIL +reproduction +other bytes, PSNR 2\d\.\d dB/m)
    expect(far.code).toBe(1)
  })

  test('cannot be reproduced without its prompt or its package', async () => {
    const nameless = await verify(...(await writeChanged(1)), '--reproduce')
    expect(nameless.stdout).toMatch(/^FAIL +reproduction +the prompt is unknown; set --prompt/m)
    const withoutPackage = await verify(...(await writeChanged(1)), '--reproduce', ...prompts, '--packages', scratch)
    expect(withoutPackage.stdout).toMatch(/^FAIL +reproduction +package [0-9a-f]{64} of the receipt is not in/m)
    expect([nameless.code, withoutPackage.code]).toEqual([1, 1])
  })

  test('is not reproduced from an input image or with adapters', async () => {
    const inputs = ['image', 'mask'].map((name) => ({ name, sha256: '0'.repeat(64) }))
    const drawn = await verify(...(await writeChanged(1, { inputs })), '--reproduce', ...prompts)
    expect(drawn.stdout).toMatch(
      /^FAIL +reproduction +not possible for images with an input image \(image and mask\)$/m,
    )
    const { parameters } = decodeJwt<ReceiptClaims>(receipt)
    const loras = [{ id: 'ink', scale: 1, package: '0'.repeat(64) }]
    const adapted = await verify(
      ...(await writeChanged(1, { parameters: { ...parameters, loras } })),
      '--reproduce',
      ...prompts,
    )
    expect(adapted.stdout).toMatch(/^FAIL +reproduction +not possible for images with LoRA adapters \(ink\)$/m)
    expect([drawn.code, adapted.code]).toEqual([1, 1])
  })
})
