// The commands `serve`, `dev` and `demo` as separate processes, from a checkpoint to an image.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import path from 'node:path'
import { expect, test } from 'vitest'
import { writeTinyCheckpoint } from '../../infra/checkpoints/tiny/checkpoint.ts'
import { findFreePort } from '../../infra/local/servers/ports.ts'
import { readPixels } from '../../infra/receipts/compare-images.ts'
import { findProcesses, findProcessIds } from '../support/descendants.ts'
import { useScratch } from '../support/scratch.ts'

const scratch = useScratch()
const ROOT = path.join(import.meta.dirname, '../..')
const LOCAL = path.join(ROOT, 'infra/local')

/** Starts a command of infra/local. `printed` resolves with its output once that matches. */
function start(name: string, args: readonly string[], env: Record<string, string> = {}) {
  const mark = randomUUID()
  const child = spawn(process.execPath, [path.join(LOCAL, `${name}.ts`), ...args], {
    cwd: ROOT,
    env: { ...process.env, ...env, COMMAND_UNDER_TEST: mark },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
  const ended = once(child, 'exit').then(([code]) => code as number)
  return {
    child,
    mark,
    ended,
    output: () => output,
    printed: (pattern: RegExp) =>
      expect.poll(() => pattern.exec(output) ?? (child.exitCode !== null && output), { timeout: 110_000 }).toBeTruthy(),
    running: () => findProcesses(`COMMAND_UNDER_TEST=${mark}`),
  }
}

const readVariable = (name: string, output: string) => new RegExp(`${name}=(\\S+)`).exec(output)![1]!

test('serve: from two checkpoints to an image on each route, and Ctrl-C stops everything', async () => {
  const [turbo, full] = [path.join(scratch.directory, 'fast'), path.join(scratch.directory, 'slow')]
  await writeTinyCheckpoint(turbo, { seed: 1 })
  await writeTinyCheckpoint(full, { seed: 2 })
  const out = path.join(scratch.directory, 'first.png')
  const [state, port] = [path.join(scratch.directory, 'state'), await findFreePort()]
  const options = ['--target', 'cpu', '--port', `${port}`, '--state', state, '--out', out]
  const serve = start('serve', ['--turbo', turbo, '--full', full, ...options])
  await serve.printed(/Octet is at/)
  const printed = serve.output()
  expect(printed).toContain(`Octet is at http://127.0.0.1:${port}/ until Ctrl-C`)
  expect(await readPixels(await readFile(out))).toMatchObject({ width: 256, height: 256 })
  const [url, key] = [readVariable('URL', printed), readVariable('KEY', printed)]
  for (const [route, model] of [
    ['turbo', 'fast'],
    ['full', 'slow'],
  ]) {
    const reply = await fetch(`${url}/v1/images/generations`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'a heart', route, steps: 1, size: '64x64' }),
    })
    expect(await reply.json()).toMatchObject({ octet: { route, model } })
  }
  serve.child.kill('SIGINT')
  expect(await serve.ended).toBe(130)
  await expect.poll(serve.running, { timeout: 10_000 }).toEqual([])
})

test('serve ends with a message when its GPU function ends', async () => {
  const checkpoint = path.join(scratch.directory, 'tiny')
  await writeTinyCheckpoint(checkpoint, { seed: 1 })
  const options = [
    '--target',
    'cpu',
    '--port',
    `${await findFreePort()}`,
    '--state',
    path.join(scratch.directory, 'state'),
  ]
  const out = path.join(scratch.directory, 'new', 'first.png')
  const serve = start('serve', ['--checkpoint', checkpoint, ...options, '--out', out])
  await serve.printed(/Octet is at/)
  expect(await readPixels(await readFile(out))).toMatchObject({ width: 256, height: 256 })
  const [gpu] = await findProcessIds(`COMMAND_UNDER_TEST=${serve.mark}`, 'gpu-fn/main.ts')
  process.kill(gpu!, 'SIGKILL')
  expect([await serve.ended, serve.output()]).toEqual([
    1,
    expect.stringContaining('the GPU function ended with SIGKILL'),
  ])
  await expect.poll(serve.running, { timeout: 10_000 }).toEqual([])
}, 60_000)

test('serve rejects a file that is not a checkpoint, with the reason', async () => {
  const missing = start('serve', ['--checkpoint', path.join(scratch.directory, 'none')])
  expect([await missing.ended, missing.output()]).toEqual([1, expect.stringContaining('no such file or directory')])
  const none = start('serve', [])
  expect([await none.ended, none.output()]).toEqual([1, expect.stringContaining('name a model with --checkpoint')])
  const gated = start('serve', ['--hub', 'stabilityai/stable-diffusion-3.5-large'], { HF_TOKEN: '' })
  expect([await gated.ended, gated.output()]).toEqual([1, expect.stringContaining('accept the license at')])
})

test('dev keeps its secrets and its key between starts, and the key manages webhooks', async () => {
  const [state, port] = [path.join(scratch.directory, 'dev'), await findFreePort()]
  const keys: string[] = []
  for (const _ of ['first', 'second']) {
    const dev = start('dev', ['--port', `${port}`, '--state', state])
    await dev.printed(/Octet is at/)
    keys.push(readVariable('KEY', dev.output()))
    const headers = { authorization: `Bearer ${keys[0]}` }
    expect((await fetch(`http://127.0.0.1:${port}/v1/webhooks/default/secret`, { headers })).status).toBe(200)
    dev.child.kill('SIGINT')
    expect(await dev.ended).toBe(130)
    await expect.poll(dev.running, { timeout: 10_000 }).toEqual([])
  }
  expect(keys[1]).toBe(keys[0])
})

test('dev names a port that is taken, and its help starts nothing', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const state = path.join(scratch.directory, 'dev')
  const taken = start('dev', ['--port', `${port}`, '--state', state])
  expect([await taken.ended, taken.output()]).toEqual([1, expect.stringContaining(`port ${port} is in use`)])
  server.close()
  const help = start('dev', ['--help'])
  expect([await help.ended, help.output()]).toEqual([0, expect.stringContaining('--port <number>')])
  await expect(readdir(state)).rejects.toThrow('ENOENT')
})

test('Ctrl-C while the worker of the demo starts leaves no state behind', async () => {
  const demo = start('demo', ['a heart', '--out', path.join(scratch.directory, 'x.png')])
  // Other tests start demos as well.
  const isOwn = (name: string) => name.startsWith(`state-${demo.child.pid}-`)
  const listStates = async () => (await readdir(path.join(ROOT, '.octet')).catch(() => [])).filter(isOwn)
  await expect.poll(listStates, { timeout: 60_000 }).toHaveLength(1)
  demo.child.kill('SIGINT')
  expect(await demo.ended).toBe(130)
  await expect.poll(demo.running, { timeout: 10_000 }).toEqual([])
  expect(await listStates()).toEqual([])
})

test('npm --prefix: the demo writes into the directory from which npm was called, from several words', async () => {
  const env = { npm_lifecycle_event: 'demo', INIT_CWD: scratch.directory }
  const demo = start('demo', ['a', 'red', 'heart', '--size', '64x64', '--out', 'x.png'], env)
  expect([await demo.ended, demo.output()]).toEqual([0, expect.stringContaining(path.join(scratch.directory, 'x.png'))])
  expect(await readdir(scratch.directory)).toContain('x.png')
})
