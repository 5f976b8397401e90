// A checkpoint from the Hugging Face hub on this disk: only what the compiler reads, resumed where it broke off, each file checked.
import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { downloadFile, HubApiError, type ListFileEntry, listFiles } from '@huggingface/hub'

export type HubOptions = {
  repo: string
  revision?: string
  token?: string
  /** Another server that speaks the hub's API. */
  hubUrl?: string
  /** Leave the T5 encoder out, for a tier that does without. */
  withoutT5?: boolean
  /** A transfer that is silent for longer is taken up again. */
  stallMs?: number
  pauseMs?: number
  onProgress?: (doneBytes: number, totalBytes: number, file: string) => void
}

/** The hub does not give what is asked; the message says what to do. */
export class HubError extends Error {
  override name = 'HubError' as const
}

const TRIES = 6
const FOLDERS =
  /^(transformer|text_encoder|text_encoder_2|text_encoder_3|vae|scheduler|tokenizer|tokenizer_2|tokenizer_3)\//
const T5 = /^(text_encoder_3|tokenizer_3)\//
const FILES = /\.(safetensors|json|txt|model)$/

/** Of the listing of a diffusers repository, what the compiler reads: where weights come in full and in half precision, the full ones. */
export function neededFiles<F extends { path: string }>(listing: readonly F[], withoutT5 = false): F[] {
  const inside = listing.filter(
    ({ path: name }) =>
      name === 'model_index.json' || (FOLDERS.test(name) && FILES.test(name) && !(withoutT5 && T5.test(name))),
  )
  const isHalf = ({ path: name }: F) => /\.fp16[.-]/.test(name)
  const folderOf = ({ path: name }: F) => path.dirname(name)
  const full = new Set(inside.filter((file) => file.path.endsWith('.safetensors') && !isHalf(file)).map(folderOf))
  return inside.filter((file) => !(isHalf(file) && full.has(folderOf(file))))
}

/**
 * Downloads a checkpoint to `directory` and returns a name for its content, the same for the same files. What is there and whole stays.
 * Throws HubError.
 */
export async function downloadCheckpoint(directory: string, options: HubOptions): Promise<{ content: string }> {
  const listing = await list(options)
  const files = neededFiles(listing, options.withoutT5)
  if (files.length === 0)
    throw new HubError(`${options.repo} has no diffusers checkpoint: none of its folders is there`)
  const total = files.reduce((sum, { size }) => sum + size, 0)
  let before = 0
  for (const file of files) {
    await fetchFile(directory, file, options, (bytes) => options.onProgress?.(before + bytes, total, file.path))
    before += file.size
  }
  const content = createHash('sha256').update(JSON.stringify(files.map((file) => [file.path, digestOf(file)])))
  return { content: content.digest('hex') }
}

const source = ({ repo, revision, token, hubUrl }: HubOptions) => ({
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
      for await (const entry of listFiles({ ...source(options), recursive: true })) found.push(entry)
      return found.filter(({ type, path: name }) => type === 'file' && isSafe(name))
    },
  )
}

/** A hub that lies must not write outside the directory. */
const isSafe = (name: string) =>
  !path.isAbsolute(name) && !name.split('/').some((part) => ['', '.', '..'].includes(part))

/** The digest that the hub states: SHA-256 of large files, git's SHA-1 of a blob for the others. */
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
  const done = await stat(file).catch(() => null)
  // A file has its name only after its digest was right.
  if (done?.size === entry.size) return progress(entry.size)
  await mkdir(path.dirname(file), { recursive: true })
  const partial = `${file}.part`
  for (let tries = 1; ; tries++) {
    await fetchBytes(partial, entry, options, progress)
    const hash = hashOf(entry)
    for await (const chunk of createReadStream(partial)) hash.update(chunk)
    if (hash.digest('hex') === digestOf(entry)) return rename(partial, file)
    await rm(partial)
    if (tries === 2)
      throw new HubError(`${entry.path} of ${options.repo} came twice with another checksum than the hub states`)
  }
}

/** Appends to `partial` what it lacks. */
async function fetchBytes(
  partial: string,
  entry: ListFileEntry,
  options: HubOptions,
  progress: (bytes: number) => void,
) {
  await using output = await open(partial, 'a')
  const sizeNow = async () => (await output.stat()).size
  if ((await sizeNow()) > entry.size) await output.truncate(0)
  let at = await sizeNow()
  await persist(
    options,
    () => at,
    async () => {
      if (at === entry.size) return
      const blob = await downloadFile({ ...source(options), path: entry.path })
      if (!blob) throw new HubError(`${entry.path} is listed by ${options.repo} and cannot be had`)
      for await (const chunk of withoutStalls(blob.slice(at).stream(), options.stallMs ?? 30_000)) {
        if (at + chunk.length > entry.size) throw new Error(`${entry.path} is longer than the hub says`)
        await output.write(chunk)
        at += chunk.length
        progress(at)
      }
      if (at < entry.size) throw new Error(`${entry.path} ended ${entry.size - at} bytes early`)
    },
  )
}

async function* withoutStalls(stream: ReadableStream<Uint8Array>, stallMs: number): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader()
  try {
    for (;;) {
      const stalled = new AbortController()
      const late = sleep(stallMs, undefined, { signal: stalled.signal }).then(() => {
        throw new Error(`nothing came for ${stallMs} ms`)
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

/** Tries again what may pass; a refusal does not. `reached` tells how far it came: while that grows, it goes on. */
async function persist<T>(options: HubOptions, reached: () => number, once: () => Promise<T>): Promise<T> {
  for (let idle = 0; ; ) {
    const before = reached()
    try {
      return await once()
    } catch (cause) {
      if (cause instanceof HubError) throw cause
      if (cause instanceof HubApiError && cause.statusCode < 500 && cause.statusCode !== 429)
        throw refused(cause, options)
      idle = reached() > before ? 1 : idle + 1
      if (idle >= TRIES)
        throw new HubError(`${options.repo} cannot be read from the hub: ${(cause as Error).message}`, { cause })
      await sleep((options.pauseMs ?? 1000) * 2 ** (idle - 1))
    }
  }
}

function refused(cause: HubApiError, { repo, token, revision = 'main' }: HubOptions): HubError {
  const { statusCode: status } = cause
  if (status === 401 || status === 403) {
    const page = `accept the licence at https://huggingface.co/${repo}`
    return new HubError(
      token
        ? `the hub refuses ${repo} to this HF_TOKEN (${status}): ${page} with the account that the token belongs to`
        : `the hub refuses ${repo} (${status}): ${page}, make a token that may read it, and set HF_TOKEN`,
      { cause },
    )
  }
  return new HubError(`the hub has no ${repo} at ${revision} (${status}); name another with --repo and --revision`, {
    cause,
  })
}
