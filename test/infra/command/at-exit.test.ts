// A signal to a command removes its temporary directories and ends its child processes.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { outputOf } from '../../../infra/command/child-process.ts'
import { makeScratch } from '../../../infra/command/scratch.ts'
import { findProcesses } from '../../support/descendants.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
/** Timeout for a slow machine. */
const LIMIT = { timeout: 20_000 }
const COMMAND = path.join(import.meta.dirname, '../../../infra/command')
/** A command with a child process, and with a group of two that writes to its temporary directory. */
const PROGRAM = `
import { spawn } from 'node:child_process'
import { runAtExit } from '${COMMAND}/at-exit.ts'
import { endGroupWithThis, endWithThis } from '${COMMAND}/child-process.ts'
import { endOnSignals } from '${COMMAND}/end-on-signals.ts'
import { makeScratch } from '${COMMAND}/scratch.ts'

endOnSignals()
const { directory } = makeScratch('left-', process.argv[2])
makeScratch('kept-', process.argv[2]).keep()
endWithThis(spawn('sleep', ['60'], { stdio: 'ignore' }))
const writer = 'sleep 60 & i=0; while true; do i=$((i + 1)); echo > "$0/$i"; sleep 0.02; done'
endGroupWithThis(spawn('sh', ['-c', writer, directory], { stdio: 'ignore', detached: true }))
// Ctrl+C under npm sends two signals: one from the terminal, one from npm.
runAtExit(() => process.kill(process.pid, process.argv[3]))
console.log('started')
setInterval(() => {}, 1000)
`

test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)('%s, even twice, leaves nothing behind', async (signal) => {
  const mark = `COMMAND_UNDER_TEST=${randomUUID()}`
  const [name, value] = mark.split('=') as [string, string]
  const parent = path.join(scratch.directory, 'temporary')
  const file = path.join(scratch.directory, 'command.ts')
  await writeFile(file, PROGRAM)
  await outputOf('mkdir', [parent])
  const child = spawn(process.execPath, [file, parent, signal], {
    env: { ...process.env, [name]: value },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  await once(child.stdout, 'data')
  // The command, the child, and the group of a shell and its own child.
  await expect.poll(async () => (await findProcesses(mark)).length, LIMIT).toBeGreaterThanOrEqual(4)
  child.kill(signal)
  expect(await ended).toEqual([128 + os.constants.signals[signal], null])
  await expect.poll(() => findProcesses(mark), LIMIT).toEqual([])
  expect((await readdir(parent)).map((each) => each.slice(0, 5))).toEqual(['kept-'])
})

test('a temporary directory is removed at the end of its block, even after an error', async () => {
  const use = async () => {
    await using made = makeScratch('used-', scratch.directory)
    await writeFile(path.join(made.directory, 'file'), '')
    throw new Error('failed')
  }
  await expect(use()).rejects.toThrow('failed')
  expect(await readdir(scratch.directory)).toEqual([])
})

test('a kept directory remains after its block', async () => {
  {
    await using made = makeScratch('kept-', scratch.directory)
    made.keep()
  }
  expect(await readdir(scratch.directory)).toHaveLength(1)
})

test('cleanups run from the newest to the oldest, even after a failed one', async () => {
  const program = `
    import { runAtExit } from '${COMMAND}/at-exit.ts'
    runAtExit(() => console.log('oldest'))
    runAtExit(() => console.log('canceled'))()
    runAtExit(() => { throw new Error('failed') })
    runAtExit(() => console.log('newest'))`
  const ended = await outputOf(process.execPath, ['--input-type=module', '--eval', program])
  expect(ended).toEqual({ stdout: 'newest\noldest\n', stderr: 'failed\n' })
})

test('returns the output of a program, and throws the standard error of a failed one', async () => {
  expect(await outputOf('cat', [], { input: 'a text' })).toEqual({ stdout: 'a text', stderr: '' })
  await expect(outputOf('sh', ['-c', 'echo reason >&2; exit 3'])).rejects.toThrow('sh ended with 3:\nreason')
  await expect(outputOf('no-such-program', [])).rejects.toThrow('ENOENT')
})
