// Checks of an image against its receipt.
import { createHash } from 'node:crypto'
import type { JSONWebKeySet } from 'jose'
import {
  computePromptDigest,
  openReceipt,
  PROMPT_ROLES,
  type PromptRole,
  type ReceiptClaims,
  ReceiptError,
} from '../../edge/results/receipt.ts'
import { readParameters } from '../../gpu-fn/pipeline/image.ts'
import { psnr, readPixels } from './compare-images.ts'
import { checkReproducible, findPackage, type Prompts, reproduce } from './reproduce.ts'

/** `passed` is null if the check was skipped. */
export type Check = { name: string; passed: boolean | null; detail: string }
export type Subject = { file: Uint8Array; receipt: string; jwks: JSONWebKeySet; prompts: Partial<Prompts> }
/** `minPsnr` is the lowest accepted PSNR in dB of an image with other bytes, as from another device. */
type Reproduction = { packages: string; minPsnr: number }
export type Report = { claims: (ReceiptClaims & { kid: string }) | null; checks: Check[] }

const check = (name: string, passed: boolean | null, detail: string): Check => ({ name, passed, detail })

function checkFile({ file }: ReceiptClaims, bytes: Uint8Array): Check {
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  if (sha256 === file.sha256) return check('file', true, `SHA-256 ${sha256}, ${bytes.length} bytes`)
  return check('file', false, `SHA-256 is ${sha256}; the receipt is for ${file.sha256}, ${file.bytes} bytes`)
}

/** The prompts with a digest in the receipt. */
const rolesOf = (claims: ReceiptClaims) => PROMPT_ROLES.filter((role) => claims[`${role}_digest`] !== undefined)

const isPrompt = async (claims: ReceiptClaims, role: PromptRole, text: string) =>
  (await computePromptDigest(claims.salt, role, text)) === claims[`${role}_digest`]

async function checkPrompt(claims: ReceiptClaims, role: PromptRole, text: string | undefined): Promise<Check> {
  const name = role.replace('_', ' ')
  if (text === undefined) return check(name, null, `skipped; set --${role.replace('_', '-')}`)
  if (await isPrompt(claims, role, text)) return check(name, true, 'matches its digest')
  return check(name, false, 'does not match its digest')
}

/** The prompts as given, or else from the file's metadata. Throws if neither matches the receipt. */
async function promptsOf(claims: ReceiptClaims, { file, prompts }: Subject): Promise<Prompts> {
  const written = await readParameters(file)
  const find = async (role: PromptRole) => {
    const text = prompts[role] ?? written?.[role] ?? ''
    if (await isPrompt(claims, role, text)) return text
    throw new Error(`the ${role.replace('_', ' ')} is unknown; set --${role.replace('_', '-')}`)
  }
  const found: Partial<Prompts> = {}
  for (const role of rolesOf(claims)) found[role] = await find(role)
  return found as Prompts
}

async function checkReproduction(claims: ReceiptClaims, subject: Subject, options: Reproduction): Promise<Check> {
  try {
    checkReproducible(claims)
    const prompts = await promptsOf(claims, subject)
    const again = await reproduce(claims, prompts, await findPackage(options.packages, claims.package))
    if (Buffer.from(again).equals(subject.file)) return check('reproduction', true, 'the same bytes')
    const ratio = psnr(await readPixels(again), await readPixels(subject.file))
    const detail = `other bytes, PSNR ${ratio.toFixed(1)} dB (required: ${options.minPsnr})`
    return check('reproduction', ratio >= options.minPsnr, detail)
  } catch (error) {
    return check('reproduction', false, error instanceof Error ? error.message : String(error))
  }
}

/** Checks the signature and then the file and the prompts. With `reproduction`, also generates the image again. */
export async function checkReceipt(subject: Subject, reproduction: Reproduction | null): Promise<Report> {
  try {
    const claims = await openReceipt(subject.receipt, subject.jwks)
    const checks = [
      check('signature', true, `of key ${claims.kid}`),
      checkFile(claims, subject.file),
      ...(await Promise.all(rolesOf(claims).map((role) => checkPrompt(claims, role, subject.prompts[role])))),
    ]
    if (reproduction) checks.push(await checkReproduction(claims, subject, reproduction))
    return { claims, checks }
  } catch (error) {
    if (!(error instanceof ReceiptError)) throw error
    return { claims: null, checks: [check('signature', false, error.message)] }
  }
}
