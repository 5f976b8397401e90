// Adds onnxruntime's CUDA 13 provider to onnxruntime-node, whose installer supports CUDA 12 only. Both must be of the same release, which
// onnxruntime does not check when it loads the provider.
//   node infra/docker/cuda-provider.ts node_modules/onnxruntime-node [WHEEL]
// WHEEL is a downloaded file, for a host without network.
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream, existsSync } from 'node:fs'
import { readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import AdmZip from 'adm-zip'
import { endOnSignals } from '../command/end-on-signals.ts'
import { makeScratch } from '../command/scratch.ts'

const RELEASE = '1.29.0'
/** Microsoft's wheel of that release, which is built for CUDA 13. Only its libraries are used, so its Python version does not matter. */
export const WHEEL = `onnxruntime_gpu-${RELEASE}-cp312-cp312-manylinux_2_28_x86_64.whl`
const SHA256 = '8ccd052ca4de21b2a335f3503a283126163b6fab9dba29d1d9cbf3fa55c51d28'
/** A package index with the JSON API of PEP 691. A mirror is set as for pip. */
const INDEX = process.env.PIP_INDEX_URL || 'https://pypi.org/simple'
export const CUDA_PROVIDER = 'libonnxruntime_providers_cuda.so'
const FILES = [CUDA_PROVIDER, 'libonnxruntime_providers_shared.so']

type ProviderOptions = {
  /** A downloaded wheel. */
  wheel?: string | undefined
  index?: string
  onProgress?: (doneBytes: number, totalBytes: number) => void
}

/** The directory of the native libraries of an onnxruntime-node. */
export const libraryDirectoryOf = (target: string) => path.join(target, 'bin/napi-v6/linux/x64')

/** Whether the onnxruntime-node in `target` has a CUDA provider. */
export const hasProvider = (target: string): boolean =>
  FILES.every((file) => existsSync(path.join(libraryDirectoryOf(target), file)))

/** Downloads, verifies and adds the provider to the onnxruntime-node in `target`. Throws with nothing changed. */
export async function installProvider(target: string, options: ProviderOptions = {}): Promise<void> {
  const { version } = JSON.parse(await readFile(path.join(target, 'package.json'), 'utf8'))
  if (version !== RELEASE) throw new Error(`onnxruntime-node is ${version}; the provider here is of ${RELEASE}`)
  await using scratch = makeScratch('octet-provider-')
  const wheel = options.wheel ?? (await download(path.join(scratch.directory, 'provider.whl'), options))
  await assertDigest(wheel)
  const archive = new AdmZip(wheel)
  for (const file of FILES) {
    const entry = archive.getEntry(`onnxruntime/capi/${file}`)
    if (!entry) throw new Error(`${wheel} has no ${file}`)
    const out = path.join(libraryDirectoryOf(target), file)
    await writeFile(`${out}.new`, entry.getData())
    await rename(`${out}.new`, out)
  }
}

async function request(url: string, headers: Record<string, string> = {}): Promise<Response> {
  const reply = await fetch(url, { headers }).catch((cause: Error) => {
    throw new Error(`${url} cannot be reached (${(cause.cause as Error)?.message ?? cause.message})`, { cause })
  })
  if (!reply.ok) throw new Error(`${url} returned ${reply.status}`)
  return reply
}

/** Looks up the address of the wheel in a package index. */
async function findWheel(index: string): Promise<string> {
  const project = `${index.replace(/\/$/, '')}/onnxruntime-gpu/`
  const reply = await request(project, { accept: 'application/vnd.pypi.simple.v1+json' })
  const { files } = (await reply.json().catch(() => ({ files: [] }))) as { files: { filename: string; url: string }[] }
  const file = files.find(({ filename }) => filename === WHEEL)
  if (!file) throw new Error(`${project} does not list ${WHEEL}`)
  return new URL(file.url, project).href
}

async function download(file: string, { index = INDEX, onProgress }: ProviderOptions): Promise<string> {
  const reply = await request(await findWheel(index))
  const total = Number(reply.headers.get('content-length') ?? 0)
  let done = 0
  const body = Readable.fromWeb(reply.body!)
  body.on('data', (chunk: Uint8Array) => {
    done += chunk.length
    onProgress?.(done, total)
  })
  await pipeline(body, createWriteStream(file))
  return file
}

async function assertDigest(wheel: string): Promise<void> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(wheel), hash)
  const digest = hash.digest('hex')
  if (digest !== SHA256) throw new Error(`${wheel} has the SHA-256 ${digest}, not ${SHA256}`)
}

if (import.meta.main) {
  endOnSignals()
  const [target, wheel] = process.argv.slice(2)
  if (!target) throw new Error('the argument must be the directory of onnxruntime-node')
  await installProvider(target, { wheel }).then(
    () => console.log(`${FILES.join(' and ')} of onnxruntime ${RELEASE} are in place`),
    (error: Error) => {
      console.error(`cuda-provider: ${error.message}`)
      process.exitCode = 1
    },
  )
}
