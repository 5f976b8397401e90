// The program of a Modal container, with the real GPU function as its child process.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, cp, mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { describe, expect, onTestFinished, test } from 'vitest'
import { findModalPython } from '../../../infra/modal/python.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { useScratch } from '../../support/scratch.ts'

const python = findModalPython()
const MAIN = path.join(import.meta.dirname, '../../../gpu-fn/main.ts')
const scratch = useScratch()

/** Creates a directory with one small package. */
async function compileOnePackage(): Promise<string> {
  const packages = path.join(scratch.directory, 'packages')
  await cp(await compileTiny({ tier: 'fp8' }), path.join(packages, 'custom'), { recursive: true })
  return packages
}

function killGroup(leader: number): void {
  try {
    process.kill(-leader, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Starts a container with a `node` on its PATH that runs the GPU function of this checkout. */
async function startContainer(env: Record<string, string> = {}) {
  const packages = await compileOnePackage()
  const bin = path.join(scratch.directory, 'bin')
  await mkdir(bin)
  await writeFile(path.join(bin, 'node'), `#!/bin/sh\nexec ${process.execPath} ${MAIN}\n`)
  await chmod(path.join(bin, 'node'), 0o755)
  const child = spawn(python!, [path.join(import.meta.dirname, 'container.py')], {
    env: {
      ...{ PATH: `${bin}:${process.env.PATH}`, HOST: '127.0.0.1', PORT: '0', OCTET_INSECURE: '1' },
      ...{ OCTET_PACKAGES: packages, OCTET_CACHE: path.join(scratch.directory, 'cache'), ...env },
    },
    stdio: ['pipe', 'pipe', 'inherit'],
    // A separate process group, so that cleanup after a failed test also kills the GPU function.
    detached: true,
  })
  onTestFinished(() => killGroup(child.pid!))
  const ended = once(child, 'exit').then(([code]) => code as number | null)
  const lines: string[] = []
  const output = createInterface(child.stdout).on('line', (line) => lines.push(line))
  /** Waits for the first matching line of output. Throws if the output ends without one. */
  const findLine = async (pattern: RegExp): Promise<RegExpExecArray> => {
    for (let next = 0; ; next++) {
      while (next === lines.length) {
        const [reason] = await Promise.race([once(output, 'line'), once(output, 'close').then(() => ['closed'])])
        if (reason === 'closed') throw new Error(`no ${pattern} in ${lines.join('\n')}`)
      }
      const found = pattern.exec(lines[next]!)
      if (found) return found
    }
  }
  return { line: findLine, ended, stop: () => child.stdin.end() }
}

describe.skipIf(!python)('a Modal container', () => {
  test('exits with code 1 when the GPU function is killed', async () => {
    const container = await startContainer()
    const [, pid] = await container.line(/^process (\d+)$/)
    await container.line(/"msg":"ready"/)
    process.kill(Number(pid), 'SIGKILL')
    await container.line(/the GPU function exited with code -9; ending the container/)
    expect(await container.ended).toBe(1)
  })

  test('exits with the exit code of a GPU function that cannot start', async () => {
    const container = await startContainer({ OCTET_QUEUE: 'many' })
    await container.line(/the GPU function exited with code 2; ending the container/)
    expect(await container.ended).toBe(2)
  })

  test('waits for the GPU function to drain when Modal stops the container, and exits with code 0', async () => {
    const container = await startContainer()
    await container.line(/"msg":"ready"/)
    container.stop()
    await container.line(/"msg":"stopped"/)
    expect(await container.ended).toBe(0)
  })
})
