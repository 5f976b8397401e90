// Properties of the first GPU and its host, for the report of `npm run bench -- gpu --short`.
import { spawnSync } from 'node:child_process'
import os from 'node:os'
import { listGpus } from '../../../../gpu-fn/engine/device.ts'
import packageJson from '../../../../package.json' with { type: 'json' }
import { ROOT } from '../../../local/models/package-cache.ts'

export type Card = {
  readonly gpu: string
  /** CUDA compute capability, such as 8.9. */
  readonly capability: string
  readonly memoryMib: number | null
  readonly driver: string
  /** Latest CUDA version supported by the driver. */
  readonly cuda: string
  readonly host: string
  /** Version and commit of Octet. */
  readonly octet: string
}

const QUERY = ['--query-gpu=compute_cap,memory.total,driver_version,name', '--format=csv,noheader,nounits']
const UNKNOWN = 'unknown'

function outputOf(program: string, args: readonly string[]): string {
  const { status, stdout } = spawnSync(program, args, { encoding: 'utf8', cwd: ROOT })
  return status === 0 ? stdout.trim() : ''
}

export async function readCard(): Promise<Card> {
  const [gpu] = await listGpus()
  const query = (...args: string[]) => (gpu ? outputOf('nvidia-smi', [...args, `--id=${gpu.uuid}`]) : '')
  return { ...parseCard(query(...QUERY), query('-q')), host: describeHost(), octet: describeVersion() }
}

/** Properties of the CPU, for a dry run. */
export function describeCpu(): Card {
  const gpu = os.cpus()[0]?.model.trim() ?? 'CPU'
  const none = { capability: UNKNOWN, memoryMib: null, driver: UNKNOWN, cuda: UNKNOWN }
  return { gpu, ...none, host: describeHost(), octet: describeVersion() }
}

/** Parses the output of `nvidia-smi --query-gpu` (one line) and of `nvidia-smi -q`. */
export function parseCard(line: string, details: string): Omit<Card, 'host' | 'octet'> {
  const [capability = '', memory = '', driver = '', ...name] = line.split(',').map((field) => field.trim())
  const [, cuda] = /CUDA(?: \w+)? Version\s*:\s*([\d.]+)/.exec(details) ?? []
  return {
    gpu: name.join(', ') || UNKNOWN,
    capability: capability || UNKNOWN,
    memoryMib: Number(memory) || null,
    driver: driver || UNKNOWN,
    cuda: cuda ?? UNKNOWN,
  }
}

function describeHost(): string {
  const model = os.cpus()[0]?.model.trim() ?? UNKNOWN
  const gib = Math.round(os.totalmem() / 2 ** 30)
  return `${model}, ${os.availableParallelism()} threads, ${gib} GiB, Node ${process.versions.node}`
}

const describeVersion = () =>
  `${packageJson.version}, commit ${outputOf('git', ['describe', '--always', '--dirty', '--exclude=*']) || UNKNOWN}`
