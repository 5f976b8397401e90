// A signal to a command, at any time, also ends all of its child processes.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { findProcesses } from '../support/descendants.ts'

const INFRA = path.join(import.meta.dirname, '../../infra')
const DEMO = path.join(INFRA, 'local/demo.ts')
const BENCH = path.join(INFRA, 'bench/main.ts')
/** The longest job of the built-in model. */
const LONG = [
  'a heart',
  '--route',
  'full',
  '--size',
  '384x384',
  '--out',
  path.join(tmpdir(), 'octet-never-written.png'),
]

test.each([
  ['SIGTERM', 'the GPU function starts', 'gpu-fn/main.ts', ''],
  ['SIGINT', 'it waits for the picture', 'workerd serve', 'running'],
] as const)('%s while %s leaves no process behind', async (signal, _, program, output) => {
  const mark = `DEMO_UNDER_TEST=${randomUUID()}`
  const [name, value] = mark.split('=')
  const demo = spawn(process.execPath, [DEMO, ...LONG], {
    env: { ...process.env, [name!]: value },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const ended = once(demo, 'exit')
  let shown = ''
  demo.stderr.on('data', (chunk) => (shown += chunk))
  const started = async () =>
    shown.includes(output) && (await findProcesses(mark)).some((line) => line.includes(program))
  await expect.poll(started, { timeout: 60_000 }).toBe(true)
  demo.kill(signal)
  expect(await ended).toEqual([signal === 'SIGINT' ? 130 : 143, null])
  await expect.poll(() => findProcesses(mark)).toEqual([])
})

test('SIGTERM during the startup of the hostile benchmark leaves no processes behind', async () => {
  const mark = `BENCH_UNDER_TEST=${randomUUID()}`
  const [name, value] = mark.split('=')
  const env = { ...process.env, [name!]: value }
  const bench = spawn(process.execPath, [BENCH, 'hostile', '--minutes', '1'], { env, stdio: 'ignore' })
  const ended = once(bench, 'exit')
  const started = async () => (await findProcesses(mark)).some((line) => line.includes('workerd serve'))
  await expect.poll(started, { timeout: 60_000 }).toBe(true)
  bench.kill('SIGTERM')
  expect(await ended).toEqual([143, null])
  await expect.poll(() => findProcesses(mark), { timeout: 10_000 }).toEqual([])
})
