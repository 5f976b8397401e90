// `npm run verify -- FILE RECEIPT`: verifies the origin and the parameters of an image against its receipt. Needs no network.

import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { Command } from 'commander'
import type { JSONWebKeySet } from 'jose'
import * as z from 'zod'
import { endOnSignals } from '../command/end-on-signals.ts'
import { prepareCommand } from '../command/npm.ts'
import { parseAmount } from '../command/numbers.ts'
import { print, printError } from '../command/print.ts'
import { readBounded } from '../command/read-bounded.ts'
import { prepareBuiltInPackages } from '../local/models/built-in-model.ts'
import { checkReceipt, type Report } from './check-receipt.ts'

/** Maximum size of an image file, far above the largest that the API delivers. */
const IMAGE_BYTES = 256 << 20
const TEXT_BYTES = 16 << 20
const COMPACT = /^[\w-]+\.[\w-]+\.[\w-]+$/
const listed = z.object({ data: z.array(z.object({ sha256: z.string(), receipt: z.string().nullable() })) })
const keySet = z.object({ keys: z.array(z.record(z.string(), z.unknown())) })

/** Reads a receipt given as text, in a file, or in a response of GET /v1/jobs/{id}/receipts. */
async function readReceipt(given: string, file: Uint8Array): Promise<string> {
  const text = (existsSync(given) ? (await readBounded(given, TEXT_BYTES)).toString() : given).trim()
  if (COMPACT.test(text)) return text
  const list = listed.safeParse(parseJson(text)).data
  if (!list)
    throw new Error(`${given} is not a receipt; expected three parts separated by dots, or a response of …/receipts`)
  const sha256 = createHash('sha256').update(file).digest('hex')
  const found = list.data.find((each) => each.sha256 === sha256)
  if (!found?.receipt) throw new Error(`${given} has no receipt for a file of SHA-256 ${sha256}`)
  return found.receipt
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

async function readKeys(place: string): Promise<JSONWebKeySet> {
  const remote = /^https?:/.test(place)
  const read = remote ? fetch(place).then((response) => response.text()) : readBounded(place, TEXT_BYTES).then(String)
  const text = await read.catch((cause: Error) => {
    throw new Error(`the public keys cannot be read from ${place}; set a file or an address with --jwks`, { cause })
  })
  const keys = keySet.safeParse(parseJson(text))
  if (!keys.success) throw new Error(`${place} contains no JSON Web Key Set`)
  return keys.data as JSONWebKeySet
}

const MARKS = { true: 'ok  ', false: 'FAIL', null: '-   ' } as const

function format({ claims, checks }: Report): string {
  const lines = checks.map(({ name, passed, detail }) => `${MARKS[`${passed}`]}  ${name.padEnd(16)}${detail}`)
  if (!claims) return lines.join('\n')
  const { parameters: p, file } = claims
  const facts = {
    job: `${claims.job}, image ${claims.image} of ${claims.images}, ${new Date(claims.issued * 1000).toISOString()}`,
    model: `${p.model} in ${p.tier}, route ${p.route}, package ${claims.package}`,
    image: `${p.width}x${p.height} ${file.content_type}, quality ${p.output_quality}, seed ${p.seed}`,
    steps: `${claims.steps_run}, guidance scale ${p.guidance_scale}, text as in ${p.text_convention}`,
    ran: `on ${claims.device}, ${claims.gpu_milliseconds} ms of GPU for the job`,
    price: `$${(claims.price_microdollars / 1e6).toFixed(6)} for the job`,
  }
  return [...lines, '', ...Object.entries(facts).map(([name, text]) => `      ${name.padEnd(16)}${text}`)].join('\n')
}

const JWKS = `${process.env.OCTET_URL ?? 'http://127.0.0.1:8787'}/.well-known/jwks.json`

/** Exit codes: 0 if all checks pass, 1 if one fails, 2 if none could be done. */
const command = new Command('verify')
  .exitOverride(({ exitCode }) => process.exit(exitCode && 2))
  .description('Checks an image file against its signed receipt.')
  .argument('<file>', 'the downloaded image')
  .argument(
    '<receipt>',
    'its receipt: as text, in a file, or in a file with the response of GET /v1/jobs/{id}/receipts',
  )
  .option('--jwks <place>', 'file or address of the public keys', JWKS)
  .option('--prompt <text>', 'compare the prompt')
  .option('--negative-prompt <text>', 'compare the negative prompt')
  .option('--prompt-2 <text>', 'compare the prompt of the second encoder')
  .option('--prompt-3 <text>', 'compare the prompt of the third encoder')
  .option('--reproduce', 'generate the image again and compare')
  .option('--packages <directory>', 'directory of the package in the receipt; the built-in model by default')
  .option('--min-psnr <dB>', 'minimum PSNR of a generated image with other bytes', parseAmount, 40)
  .action(async (path, receipt, options) => {
    const file = await readBounded(path, IMAGE_BYTES)
    const { prompt, negativePrompt: negative_prompt, prompt2: prompt_2, prompt3: prompt_3 } = options
    const prompts = { prompt, negative_prompt, prompt_2, prompt_3 }
    const subject = { file, receipt: await readReceipt(receipt, file), jwks: await readKeys(options.jwks), prompts }
    const packages = options.reproduce && (options.packages ?? (await prepareBuiltInPackages()).directory)
    const report = await checkReceipt(subject, packages ? { packages, minPsnr: options.minPsnr } : null)
    print(format(report))
    if (report.checks.some(({ passed }) => passed === false)) process.exitCode = 1
  })

endOnSignals()
await prepareCommand(command)
  .parseAsync()
  .catch((error: Error) => {
    printError('verify', error)
    process.exitCode = 2
  })
