// Downloads the compiler's input files of a checkpoint from the Hugging Face hub, with resumption and verification of each file.
import { createHash, type Hash } from 'node:crypto'
import { constants, createReadStream } from 'node:fs'
import { mkdir, open, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { downloadFile, HubApiError, type ListFileEntry, listFiles } from '@huggingface/hub'
import * as z from 'zod'
import { MODEL_INDEX } from '../../gpu-fn/compile/checkpoint/layout/model-index.ts'

type HubOptions = {
  repo: string
  revision?: string
  token?: string
  /** Address of another server with the hub's API. */
  hubUrl?: string
  /** Omits the T5 encoder, for a tier without it. */
  withoutT5?: boolean
  /** Uses a complete earlier download without a request, even if the hub has newer files. */
  reuse?: boolean
  /** A transfer without data for this long is retried; 30 s by default. */
  stallMs?: number
  pauseMs?: number
  onProgress?: (doneBytes: number, totalBytes: number, file: string) => void
  /** Checks the directory once it has model_index.json and no other new file, so that another model is refused before gigabytes arrive. */
  checkIndex?: (directory: string) => Promise<unknown>
}

/** A download failed permanently. The message includes advice. */
export class HubError extends Error {
  override name = 'HubError' as const
}

const TRIES = 6
const STALL_MS = 30_000
const FOLDERS =
  /^(transformer|text_encoder|text_encoder_2|text_encoder_3|vae|scheduler|tokenizer|tokenizer_2|tokenizer_3)\//
const T5 = /^(text_encoder_3|tokenizer_3)\//
const FILES = /\.(safetensors|json|txt|model)$/

const isIndex = (file: { path: string }) => file.path === MODEL_INDEX

/** The compiler's input files in the listing of a diffusers repository. If weights exist in full and half precision, only the full ones. */
export function selectFiles<F extends { path: string }>(listing: readonly F[], withoutT5 = false): F[] {
  const inside = listing.filter(
    ({ path: name }) =>
      name === MODEL_INDEX || (FOLDERS.test(name) && FILES.test(name) && !(withoutT5 && T5.test(name))),
  )
  const isHalf = ({ path: name }: F) => /\.fp16[.-]/.test(name)
  const folderOf = ({ path: name }: F) => path.dirname(name)
  const full = new Set(inside.filter((file) => file.path.endsWith('.safetensors') && !isHalf(file)).map(folderOf))
  return inside.filter((file) => !(isHalf(file) && full.has(folderOf(file))))
}

/**
 * Downloads missing files of a checkpoint to `directory`. The returned `content` is a digest of all files. Throws HubError.
 */
export async function downloadCheckpoint(directory: string, options: HubOptions): Promise<{ content: string }> {
  const { repo, revision = 'main', withoutT5 = false } = options
  const wanted = { repo, revision, withoutT5 }
  const earlier = options.reuse ? await readMark(directory, wanted) : null
  if (earlier) return earlier
  const listing = await list(options)
  const files = selectFiles(listing, options.withoutT5)
  if (files.length === 0)
    throw new HubError(`${options.repo} has no diffusers checkpoint: none of its directories exists`)
  const total = files.reduce((sum, { size }) => sum + size, 0)
  await assertSpace(directory, files)
  let before = 0
  for (const file of files.toSorted((a, b) => Number(isIndex(b)) - Number(isIndex(a)))) {
    const onProgress = (bytes: number) => options.onProgress?.(before + bytes, total, file.path)
    await fetchFile(directory, file, options, onProgress).catch((error) => {
      throw isFull(error) ? new HubError(`${directory}: ${REMEDY}`, { cause: error }) : error
    })
    before += file.size
    if (isIndex(file)) await options.checkIndex?.(directory)
  }
  const content = createHash('sha256').update(JSON.stringify(files.map((file) => [file.path, digestOf(file)])))
  const digest = content.digest('hex')
  const sizes = files.map(({ path: name, size }) => ({ name, size }))
  const complete: Mark = { wanted, content: digest, files: sizes }
  if (options.reuse) await writeMark(directory, complete)
  return { content: digest }
}

/** Marks a download as complete and verified. */
const mark = z.object({
  wanted: z.object({ repo: z.string(), revision: z.string(), withoutT5: z.boolean() }),
  content: z.string(),
  files: z.array(z.object({ name: z.string(), size: z.int() })),
})
type Mark = z.infer<typeof mark>
const markOf = (directory: string) => `${path.resolve(directory)}.complete.json`

/** The digest of a complete download; null for an incomplete download or one of other files. */
async function readMark(directory: string, wanted: Mark['wanted']): Promise<{ content: string } | null> {
  const json: unknown = await readFile(markOf(directory), 'utf8')
    .then(JSON.parse)
    .catch(() => null)
  const found = mark.safeParse(json).data
  if (!found || !isDeepStrictEqual(found.wanted, wanted)) return null
  for (const { name, size } of found.files)
    if ((await stat(path.join(directory, name)).catch(() => null))?.size !== size) return null
  return { content: found.content }
}

/** Replaces the mark by a rename, so that a killed process leaves no truncated one. */
async function writeMark(directory: string, complete: Mark): Promise<void> {
  const fresh = `${markOf(directory)}.${process.pid}`
  await writeFile(fresh, JSON.stringify(complete))
  await rename(fresh, markOf(directory))
}

/** Throws HubError if the missing files exceed the free space. */
async function assertSpace(directory: string, files: readonly ListFileEntry[]): Promise<void> {
  await mkdir(directory, { recursive: true })
  const present = async (name: string) => (await stat(path.join(directory, name)).catch(() => null))?.size ?? 0
  let needed = 0
  for (const { path: name, size } of files) needed += size - (await present(name)) - (await present(`${name}.part`))
  const { bavail, bsize } = await statfs(directory)
  const formatGigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`
  if (needed > bavail * bsize)
    throw new HubError(
      `${directory}: ${formatGigabytes(needed)} are to be downloaded, ${formatGigabytes(bavail * bsize)} are free`,
    )
}

/** A `fetch` without the wait of minutes for a server that does not reply. `whole`: the body, too, must arrive within the time. */
function boundedFetch({ stallMs = STALL_MS }: HubOptions, whole = false): typeof fetch {
  return async (resource, init) => {
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(new Error(`no reply within ${stallMs} ms`)), stallMs).unref()
    const reply = await fetch(resource, { ...init, signal: late.signal })
    if (!whole) clearTimeout(timer)
    return reply
  }
}

const sourceOf = ({ repo, revision, token, hubUrl }: HubOptions) => ({
  repo,
  ...(revision && { revision }),
  ...(token && { accessToken: token }),
  ...(hubUrl && { hubUrl }),
})

async function list(options: HubOptions): Promise<ListFileEntry[]> {
  return persist(
    options,
    () => 0,
    async () => {
      const found: ListFileEntry[] = []
      for await (const entry of listFiles({
        ...sourceOf(options),
        recursive: true,
        fetch: boundedFetch(options, true),
      }))
        found.push(entry)
      return found.filter(({ type, path: name }) => type === 'file' && isSafe(name))
    },
  )
}

/** Whether a path from the hub, which is not trusted, stays inside the directory. */
const isSafe = (name: string) =>
  !path.isAbsolute(name) && !name.split('/').some((part) => ['', '.', '..'].includes(part))

/** The digest stated by the hub: SHA-256 for large files, git's SHA-1 of a blob for others. */
const digestOf = ({ lfs, oid }: ListFileEntry) => lfs?.oid ?? oid
const hashOf = ({ lfs, size }: ListFileEntry): Hash =>
  lfs ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)

async function fetchFile(
  directory: string,
  entry: ListFileEntry,
  options: HubOptions,
  progress: (bytes: number) => void,
) {
  const file = path.join(directory, entry.path)
  if (await isComplete(file, entry)) return progress(entry.size)
  await mkdir(path.dirname(file), { recursive: true })
  const partial = `${file}.part`
  for (let tries = 1; ; tries++) {
    await fetchBytes(partial, entry, options, progress)
    if ((await moveVerified(partial, file, entry)) || (await isComplete(file, entry))) return
    if (tries === 2) throw new HubError(`${entry.path} of ${options.repo} had a wrong checksum twice`)
  }
}

/** A file has its final name only after verification. */
const isComplete = async (file: string, { size }: ListFileEntry) => (await stat(file).catch(() => null))?.size === size

/** Gives `partial` its final name; removes it and returns false if its digest is wrong. False, too, if another process has done either. */
async function moveVerified(partial: string, file: string, entry: ListFileEntry): Promise<boolean> {
  try {
    const hash = hashOf(entry)
    for await (const chunk of createReadStream(partial)) hash.update(chunk)
    const isVerified = hash.digest('hex') === digestOf(entry)
    await (isVerified ? rename(partial, file) : rm(partial))
    return isVerified
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

/** Writes the missing bytes at the end of `partial`. Another process that writes it at the same time writes the same bytes. */
async function fetchBytes(
  partial: string,
  entry: ListFileEntry,
  options: HubOptions,
  progress: (bytes: number) => void,
) {
  await using output = await open(partial, constants.O_RDWR | constants.O_CREAT)
  const measureSize = async () => (await output.stat()).size
  if ((await measureSize()) > entry.size) await output.truncate(0)
  let at = await measureSize()
  await persist(
    options,
    () => at,
    async () => {
      if (at === entry.size) return
      const blob = await downloadFile({ ...sourceOf(options), path: entry.path, fetch: boundedFetch(options) })
      if (!blob) throw new HubError(`${entry.path} is listed by ${options.repo} but cannot be downloaded`)
      for await (const chunk of failOnStall(blob.slice(at).stream(), options.stallMs ?? STALL_MS)) {
        if (at + chunk.length > entry.size) throw new Error(`${entry.path} is longer than listed`)
        // A write is short on an almost full disk.
        for (let written = 0; written < chunk.length; )
          written += (await output.write(chunk, written, chunk.length - written, at + written)).bytesWritten
        at += chunk.length
        progress(at)
      }
      if (at < entry.size) throw new Error(`${entry.path} ended ${entry.size - at} bytes early`)
    },
  )
}

async function* failOnStall(stream: ReadableStream<Uint8Array>, stallMs: number): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader()
  try {
    for (;;) {
      const stalled = new AbortController()
      const late = sleep(stallMs, undefined, { signal: stalled.signal }).then(() => {
        throw new Error(`no data for ${stallMs} ms`)
      })
      late.catch(() => {})
      const { value, done } = await Promise.race([reader.read(), late]).finally(() => stalled.abort())
      if (done) return
      yield value
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

/** Retries transient failures, but not refusals. Gives up after several attempts without progress in `reached`. */
async function persist<T>(options: HubOptions, reached: () => number, once: () => Promise<T>): Promise<T> {
  for (let idle = 0; ; ) {
    const before = reached()
    try {
      return await once()
    } catch (cause) {
      if (cause instanceof HubError || isFull(cause)) throw cause
      if (cause instanceof HubApiError && cause.statusCode < 500 && cause.statusCode !== 429)
        throw refusalError(cause, options)
      if (isOffline(cause)) throw createUnreachableError(cause, options)
      idle = reached() > before ? 1 : idle + 1
      if (idle >= TRIES)
        throw new HubError(`${options.repo} cannot be read from the hub: ${(cause as Error).message}`, { cause })
      await sleep((options.pauseMs ?? 1000) * 2 ** (idle - 1))
    }
  }
}

const REMEDY = 'the disk is full; free space on it, and repeat the command to resume the download'
/** Whether a write failed for lack of disk space or quota. */
const isFull = (error: unknown) => ['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException)?.code ?? '')

const licensePageOf = (repo: string) => `accept the license at https://huggingface.co/${repo}`

/** The error for a repository that requires a token, if none is set. */
export const createLicenseError = (repo: string, status = '', options: ErrorOptions = {}) =>
  new HubError(
    `the hub refuses access to ${repo}${status && ` (${status})`}: ${licensePageOf(repo)}, create a token with read access, and set HF_TOKEN`,
    options,
  )

/** Whether the name of the host does not exist, as without a network. */
const isOffline = (error: unknown) =>
  ((error as Error).cause as NodeJS.ErrnoException | undefined)?.code === 'ENOTFOUND'

const createUnreachableError = (cause: unknown, { repo }: HubOptions) =>
  new HubError(`${repo} cannot be downloaded, because the hub cannot be reached: is there a network?`, { cause })

function refusalError(cause: HubApiError, { repo, token, revision = 'main' }: HubOptions): HubError {
  const { statusCode: status } = cause
  if (status === 401 || status === 403) {
    if (!token) return createLicenseError(repo, `${status}`, { cause })
    const problem = `the hub refuses access to ${repo} with this HF_TOKEN (${status})`
    return new HubError(`${problem}: ${licensePageOf(repo)} with the account of the token`, { cause })
  }
  return new HubError(`the hub has no ${repo} at ${revision} (${status}); set --repo and --revision`, {
    cause,
  })
}
