import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'

/** A program that calls `exitNow` on its main thread during a native computation of several minutes on another thread. */
const PROGRAM = `
  import { Worker } from 'node:worker_threads'
  import { exitNow } from '${new URL('../../../gpu-fn/server/exit-now.ts', import.meta.url)}'
  process.on('exit', () => console.log('cleanup'))
  const compute = "const { pbkdf2Sync } = require('node:crypto'); require('node:worker_threads').parentPort.postMessage(''); pbkdf2Sync('a', 'b', 2 ** 30, 64, 'sha512')"
  new Worker(compute, { eval: true, execArgv: [] }).on('message', () => exitNow(3))
`

test('the process exits with the given code and without cleanup during a native computation on another thread', async () => {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', PROGRAM], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  const [code, signal] = await once(child, 'close')
  expect({ code, signal, output }).toEqual({ code: 3, signal: null, output: '' })
})
