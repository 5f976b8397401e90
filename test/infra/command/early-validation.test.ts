// Inputs that no later step accepts are refused before any step begins.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { CONFIG_FILE } from '../../../infra/config.ts'
import { useScratch } from '../../support/scratch.ts'

const ROOT = path.join(import.meta.dirname, '../../..')
const scratch = useScratch()

/** The error output of a command that fails. The environment is that of a machine without accounts. */
async function readRefusal(
  program: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<string> {
  const clean = { PATH: process.env.PATH, HOME: scratch.directory, MODAL_CONFIG_PATH: '/dev/null', ...env }
  const ended = promisify(execFile)(process.execPath, [program, ...args], { cwd: ROOT, env: clean })
  const { code, stderr } = await ended.then(
    () => ({ code: 0, stderr: '' }),
    (error: { code: number; stderr: string }) => error,
  )
  expect(code).toBe(1)
  return stderr
}

const DEPLOY = 'infra/deploy/main.ts'
const deploy = (args: readonly string[], env?: Record<string, string>) =>
  readRefusal(DEPLOY, [...args, '--secrets', path.join(scratch.directory, 'secrets.json')], env)

test('a deployment checks addresses and variables', async () => {
  expect(await deploy(['--gpu-url', 'gpu.example.com'])).toContain(
    "option '--gpu-url <url>' argument 'gpu.example.com' is invalid. It must be an address that starts with https://",
  )
  expect(
    await deploy(['--gpu-url', 'https://no-such-host.invalid'], { GPU_PROXY_HEADERS: '{"default": 1}' }),
  ).toContain('GPU_PROXY_HEADERS must be JSON of the form')
  expect(await deploy(['--gpu-url', 'https://no.such.host.example'])).toContain(
    'the host no.such.host.example is unknown',
  )
  expect(existsSync(path.join(scratch.directory, 'secrets.json'))).toBe(false)
})

test('a deployment checks its whole configuration by the schema of the worker', async () => {
  const config = JSON.parse(await readFile(CONFIG_FILE, 'utf8'))
  const file = path.join(scratch.directory, 'staging.json')
  const deployWith = async (worker: object) => {
    await writeFile(file, JSON.stringify({ ...config, worker: { ...config.worker, ...worker } }))
    return deploy(['--config', file])
  }
  expect(await deploy(['--config', file])).toContain(`${file} cannot be read (ENOENT)`)
  expect(await deployWith({ vars: { GPU_START_SECONDS: 'soon' } })).toContain('GPU_START_SECONDS is "soon"; it must be')
  expect(await deployWith({ vars: { GPU_URL: 'https://gpu.test' } })).toContain(
    'worker.vars.GPU_URL follows from --gpu-url',
  )
  expect(await deployWith({ offers: [{ ...config.worker.offers[0], endpoint: 'runpod' }] })).toContain(
    'endpoint "runpod" is not defined',
  )
  expect(await deployWith({ domain: 'https://images.example.com' })).toContain('worker.domain:')
})

test('an upload of weights checks its options, its destination and its access before the download', async () => {
  const directory = path.join(scratch.directory, 'weights')
  const weights = (args: readonly string[], env?: Record<string, string>) =>
    readRefusal('infra/weights/main.ts', ['--variant', 'large', '--directory', directory, ...args], env)
  expect(await weights([])).toContain(
    'accept the license at https://huggingface.co/stabilityai/stable-diffusion-3.5-large',
  )
  expect(await weights(['--tier', 'fp16'])).toContain('cuda-fp8 requires FP8 weights, and tier fp16 has none')
  expect(await weights(['--name', 'No!'])).toContain('--name: "No!" is given')
  expect(await weights(['--volume', 'octet-weights'], { PATH: '' })).toContain("--volume needs Modal's command")
  const bucket = ['--bucket', 'http://127.0.0.1:9/weights']
  expect(await weights(bucket)).toContain('--bucket needs OCTET_BUCKET_KEY_ID and OCTET_BUCKET_SECRET')
  expect(await readRefusal('infra/weights/main.ts', ['--variant', 'huge'])).toContain('Allowed choices are large,')
  expect(existsSync(directory)).toBe(false)
})

test('the local server checks the limit of memory', async () => {
  const refused = await readRefusal('infra/local/serve.ts', ['--checkpoint', scratch.directory, '--vram', '8GB'])
  expect(refused).toContain("argument '8GB' is invalid. It must be a number of gigabytes, such as 8 or 23.5.")
})
