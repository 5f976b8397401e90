// The GPU function as a separate process, as in a container.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { edgeKeys } from './client.ts'

const PROGRAM = fileURLToPath(new URL('../../../gpu-fn/main.ts', import.meta.url))

export type LogLine = { msg: string } & Record<string, unknown>

export interface GpuProcess {
  url: string
  child: ChildProcess
  /** Its log so far; `logged` waits for a line. */
  logs: LogLine[]
  logged(message: string): Promise<LogLine>
  /** Resolves when `/healthz` is 200; returns the status codes it saw on the way. */
  ready(): Promise<number[]>
  /** The exit code or the signal's name, once it has ended. */
  ended: Promise<number | string>
  [Symbol.asyncDispose](): Promise<void>
}

/** Starts `node gpu-fn/main.ts` on a free loopback port and waits until it listens. Throws with its output if it ends first. */
export async function startGpuProcess(packages: string, env: Record<string, string> = {}): Promise<GpuProcess> {
  const child = spawnGpu({ OCTET_PACKAGES: packages, OCTET_EDGE_PUBLIC_KEY: exportPublicPem(), ...env })
  const ended = once(child, 'exit').then(([code, signal]) => (code ?? signal) as number | string)
  const { logs, logged } = readLogs(child)
  const { port } = await logged('listening')
  const url = `http://127.0.0.1:${port}`
  return {
    url,
    child,
    logs,
    logged,
    ended,
    ready: () => pollHealth(url),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    },
  }
}

/** Runs the GPU function to its end with this environment, for tests of failing starts. */
export async function runGpuProcess(env: Record<string, string>): Promise<{ code: number | null; output: string }> {
  const child = spawnGpu(env)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, output }
}

function spawnGpu(env: Record<string, string>) {
  return spawn(process.execPath, [PROGRAM], {
    env: { PORT: '0', HOST: '127.0.0.1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

function exportPublicPem(): string {
  return edgeKeys.publicKey.export({ type: 'spki', format: 'pem' }).toString()
}

function readLogs(child: ReturnType<typeof spawnGpu>) {
  const logs: LogLine[] = []
  let errors = ''
  child.stderr.on('data', (chunk) => (errors += chunk))
  const lines = createInterface(child.stdout)
  lines.on('line', (line) => logs.push(JSON.parse(line)))
  let ended = false
  lines.once('close', () => {
    ended = true
  })
  const logged = async (message: string): Promise<LogLine> => {
    for (;;) {
      const found = logs.find(({ msg }) => msg === message)
      if (found) return found
      if (ended) throw new Error(`the GPU function ended without "${message}": ${errors}${JSON.stringify(logs)}`)
      await Promise.race([once(lines, 'line'), once(lines, 'close')])
    }
  }
  return { logs, logged }
}

async function pollHealth(url: string): Promise<number[]> {
  const seen: number[] = []
  for (;;) {
    const response = await fetch(`${url}/healthz`)
    await response.body?.cancel()
    if (seen.at(-1) !== response.status) seen.push(response.status)
    if (response.status === 200) return seen
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
