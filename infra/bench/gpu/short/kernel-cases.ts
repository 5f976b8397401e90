// Correctness of the FP8 operators on this GPU, from `npm run test:gpu -- kernels`.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { endWithThis } from '../../../command/child-process.ts'
import { makeScratch } from '../../../command/scratch.ts'
import { ROOT } from '../../../local/models/package-cache.ts'
import type { Recorder } from '../recorder.ts'

const PROGRAM = path.join(ROOT, 'test/gpu/main.ts')

export type KernelCase = { readonly passed: boolean; readonly text: string }

/** Parses a line of the test's output; null if it is not the result of a case. */
export function parseCase(line: string): KernelCase | null {
  const [, mark, text] = /^( {2}|✗ )(\S.*)$/.exec(line) ?? []
  return text === undefined ? null : { passed: mark === '  ', text }
}

/** Records the number of cases, the number of passed ones, and each failed one. Throws if the test ends before its last case. */
export async function checkKernels(recorder: Recorder, seconds: number): Promise<void> {
  await using scratch = makeScratch('octet-kernel-cases-')
  // If the test is killed, it cannot remove its temporary files itself.
  const env = { ...process.env, TMPDIR: scratch.directory }
  const child = endWithThis(spawn(process.execPath, [PROGRAM, 'kernels'], { env, stdio: ['ignore', 'pipe', 'pipe'] }))
  const exited = once(child, 'close')
  const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000)
  const cases: KernelCase[] = []
  const errors: string[] = []
  createInterface(child.stdout).on('line', (line) => {
    const found = parseCase(line)
    if (found) cases.push(found)
  })
  createInterface(child.stderr).on('line', (line) => errors.push(line))
  const [code, signal] = await exited.finally(() => clearTimeout(timer))
  const failures = cases.filter(({ passed }) => !passed)
  if (cases.length > 0) {
    recorder.record('kernels', { metric: 'results', value: cases.length })
    recorder.record('kernels', { metric: 'passed', value: cases.length - failures.length })
  }
  for (const { text } of failures) recorder.record('kernels', { metric: 'case', value: null, error: text })
  // A failed case also exits with 1.
  if (code === 0 || (code === 1 && failures.length > 0)) return
  const reason = errors
    .map((line) => line.trim())
    .filter(Boolean)
    .join(' ')
  throw new Error(`the checks ended with ${code ?? signal}${reason ? `: ${reason}` : ''}`)
}
