// The input images of a request: base64, a data: URL, an https address, or an image of an earlier job.
import { describeKind, INPUT_NAMES, type JobInput, LIMITS } from '#contract'
import { type Credential, sha256 } from '../../auth/keys.ts'
import { ApiError } from '../../http/errors.ts'
import { isOwner } from '../../jobs/ownership.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import type { InputFile } from '../../results/inputs.ts'
import { isAvailable } from '../../results/results.ts'
import { fetchImage } from './fetch-image.ts'

type Name = JobInput['name']
type InputFields = Partial<Record<Name, string | undefined>>
type Reader = { env: Env; credential: Credential /** Any address of this worker. */; ownUrl: string }

/** `job_…`, or `job_…/2` for the image with index 2. */
const RESULT = /^(job_[0-9a-f]{32})(?:\/(\d{1,2}))?$/
/** The path of a result of this worker. */
const RESULT_PATH = /^\/v1\/results\/(job_[0-9a-f]{32})\/(\d{1,2})\.[a-z]+$/
const DATA_URL = /^data:[\w.+/-]*(?:;[\w=.-]*)*;base64,/i
/** The longest start of a data: URL ahead of its base64. An expression with repeated groups must not run on a whole file. */
const DATA_URL_START = 256
const ALLOWED = 'base64, a data: URL, an https:// address, or the id of a job, such as job_…/0 for its first image'

/** The field of each file. */
const FIELDS: Record<Name, string> = { image: 'image', mask: 'mask', control: 'controls' }
/** The name of each file in messages. */
const NOUNS: Record<Name, string> = { image: 'image', mask: 'mask', control: 'the image of controls' }

const refuse = (name: Name, why: string) =>
  new ApiError('invalid_request', `${NOUNS[name]} ${why}.`, { param: FIELDS[name] })

/** The files of a request in the order of the contract. Errors: invalid_request, not_found. */
export async function readInputs(reader: Reader, given: InputFields): Promise<InputFile[]> {
  const files: InputFile[] = []
  for (const name of INPUT_NAMES) {
    const value = given[name]
    if (value !== undefined) files.push(await readInput(reader, name, value))
  }
  return files
}

/** Whether a given image is an address, which is fetched unless it is that of a result of this worker. */
export const isAddress = (given: string): boolean => /^https?:/i.test(given)

async function readInput(reader: Reader, name: Name, given: string): Promise<InputFile> {
  const result = findResult(given, reader.ownUrl)
  if (result) return openResult(reader, name, result)
  const source = isAddress(given)
    ? await fetchImage(reader.env, reader.ownUrl, given, FIELDS[name])
    : decode(name, base64Of(given))
  const problem = describeKind(source)
  if (problem) throw refuse(name, `cannot be used: ${problem}`)
  return { name, bytes: source.byteLength, sha256: await sha256(source), source }
}

/** The base64 of a data: URL. Any other text is unchanged. */
const base64Of = (given: string) => given.slice(DATA_URL.exec(given.slice(0, DATA_URL_START))?.[0].length ?? 0)

type Result = { job: string; image: number }

function findResult(given: string, ownUrl: string): Result | null {
  const url = URL.parse(given)
  const isOwn = url?.origin === new URL(ownUrl).origin
  const [, job, image = '0'] = RESULT.exec(given) ?? ((isOwn && RESULT_PATH.exec(url.pathname)) || [])
  return job === undefined ? null : { job, image: Number(image) }
}

/** An image of the account; for a browser token, one of a job that it created. Errors: not_found. */
async function openResult({ env, credential }: Reader, name: Name, { job: id, image }: Result): Promise<InputFile> {
  const job = await objectOf(env.JOB, id).view()
  const found = job && isOwner(credential, job) ? job.images.find((each) => each.image === image) : undefined
  if (job?.state !== 'succeeded' || !found || !isAvailable(found))
    throw new ApiError('not_found', `${NOUNS[name]} is ${id}/${image}, and there is no such image.`, {
      param: FIELDS[name],
    })
  const { bytes, sha256, key } = found
  if (bytes > LIMITS.inputBytes)
    throw refuse(name, `is ${id}/${image}, which has ${bytes} bytes; at most ${LIMITS.inputBytes} are allowed`)
  return { name, bytes, sha256, source: { key } }
}

function decode(name: Name, base64: string): Uint8Array<ArrayBuffer> {
  if (base64.length > Math.ceil(LIMITS.inputBytes / 3) * 4 + 4)
    throw refuse(name, `exceeds the limit of ${LIMITS.inputBytes} bytes`)
  try {
    const alphabet = /[-_]/.test(base64) ? 'base64url' : 'base64'
    const bytes = Uint8Array.fromBase64(base64, { alphabet })
    if (bytes.byteLength > 0) return bytes
  } catch {
    // Falls through to the same error.
  }
  throw refuse(name, `is not an image; it must be ${ALLOWED}`)
}
