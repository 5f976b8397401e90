// The GPU function as a local process.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { endGroupWithThis } from '../../command/child-process.ts'
import { COMPILE_CACHE } from '../models/package-cache.ts'

const CANNOT_START = 'the GPU function cannot start'
const MAIN = path.join(import.meta.dirname, '../../../gpu-fn/main.ts')

type LocalGpuOptions = {
  /** Directory of packages. */
  packages: string
  /** The edge's public key, a JWK; null accepts requests without a token. */
  edgePublicKey: string | null
  /** Comma-separated `model:tier` to load before readiness. */
  preload: string
  /** Wait until all sizes of OCTET_WARM have run, not only the largest. */
  waitsForAllSizes?: boolean
  /** Called with every line of its JSON log. */
  onLog?: (line: string) => void
  /** Flags of node, such as --watch. */
  nodeFlags?: readonly string[]
  port?: number
  /** Limit of GPU memory in GiB. */
  vram?: string
  /** Further variables. */
  settings?: Readonly<Record<string, string>>
}

/** `pid`: of the leader of its process group. `ended` resolves with the reason when the process has ended. */
type LocalGpu = { url: string; pid: number; ended: Promise<string>; stop: () => Promise<void> }

/** Starts the GPU function on loopback and waits until it is ready. `stop` lets it finish running jobs. */
export async function startGpu(options: LocalGpuOptions): Promise<LocalGpu> {
  const { edgePublicKey } = options
  const env = {
    ...Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !name.startsWith('OCTET_') || name.startsWith('OCTET_C2PA_')),
    ),
    NODE_COMPILE_CACHE: COMPILE_CACHE,
    // Readiness is read from its log.
    LOG_LEVEL: 'info',
    PORT: String(options.port ?? 0),
    HOST: '127.0.0.1',
    OCTET_PACKAGES: options.packages,
    ...(edgePublicKey === null ? { OCTET_INSECURE: '1' } : { OCTET_EDGE_PUBLIC_KEY: edgePublicKey }),
    OCTET_PRELOAD: options.preload,
    ...(options.vram !== undefined && { OCTET_VRAM_GB: options.vram }),
    ...options.settings,
  }
  const child = endGroupWithThis(
    spawn(process.execPath, [...(options.nodeFlags ?? []), MAIN], {
      env,
      stdio: ['ignore', 'pipe', 'inherit'],
      // A separate process group, which includes the child of --watch and does not receive the terminal's Ctrl-C as well.
      detached: true,
    }),
  )
  // Unlike `exit`, `close` follows the last line of the log.
  const exited = once(child, 'close')
  const ended = exited.then(([code, signal]) => `the GPU function ended with ${code ?? signal}`)
  const url = new Promise<string>((resolve, reject) => {
    let address = ''
    let isReady = false
    let cold = options.waitsForAllSizes ? options.preload.split(',').filter(Boolean).length : 0
    createInterface(child.stdout).on('line', (line) => {
      options.onLog?.(line)
      const { msg, port, err } = parse(line)
      if (msg === 'listening') address = `http://127.0.0.1:${port}`
      if (msg === 'model warm') cold -= 1
      isReady ||= msg === 'ready'
      if (isReady && cold <= 0) resolve(address)
      // With --watch, node waits for a change after the program has ended.
      if (msg === CANNOT_START) reject(new Error(`${CANNOT_START}: ${err?.message}`))
    })
    ended.then((reason) => reject(new Error(`${reason} before it was ready`)), reject)
  })
  const stop = async () => {
    child.kill('SIGTERM')
    await exited
  }
  return { url: await url, pid: child.pid!, ended, stop }
}

function parse(line: string): { msg?: string; port?: number; err?: { message?: string } } {
  try {
    return JSON.parse(line)
  } catch {
    return {}
  }
}
