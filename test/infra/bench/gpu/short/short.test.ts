import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { useScratch } from '../../../../support/scratch.ts'

const BENCH = path.join(import.meta.dirname, '../../../../../infra/bench/main.ts')
const scratch = useScratch()

/** Runs `bench` with only the scratch directory `bin` in PATH. */
async function bench(args: readonly string[], nvidiaSmi?: string) {
  const bin = path.join(scratch.directory, 'bin')
  await mkdir(bin)
  if (nvidiaSmi !== undefined) {
    await writeFile(path.join(bin, 'nvidia-smi'), `#!/bin/sh\necho '${nvidiaSmi}'\n`)
    await chmod(path.join(bin, 'nvidia-smi'), 0o755)
  }
  const options = { cwd: scratch.directory, env: { PATH: bin, HOME: scratch.directory } }
  return promisify(execFile)(process.execPath, [BENCH, ...args], options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  )
}

test.each([
  ['no GPU', undefined, 'nvidia-smi lists no GPU'],
  ['an old GPU', 'GPU-5d1e, 15360, 7.5, Tesla T4', 'Tesla T4 has compute capability 7.5; the CUDA targets need 8.0'],
])('with %s, it ends before any measurement and states what to do', async (_, nvidiaSmi, reason) => {
  const { code, stderr, stdout } = await bench(['gpu', '--short'], nvidiaSmi)
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toContain(`this machine has none that is supported: ${reason}. Run it on a host with such a GPU`)
  expect(existsSync(path.join(scratch.directory, 'gpu-short.jsonl'))).toBe(false)
})

/** The first alternative applies without a GPU, the second with one. */
const UNTIMED = '(the FP8 operators cannot run on this machine|python3 has no PyTorch)'

test.each(['kernels', 'profile'])('%s fails with a clear error without a GPU', async (command) => {
  const { code, stderr } = await bench([command])
  expect(code).toBe(1)
  expect(stderr).toMatch(new RegExp(`^bench: ${UNTIMED}`))
})

test('a dry run measures images on the CPU and reports the skipped parts', async () => {
  const sizes = ['--sizes', '64x64', '--full-sizes', '64x64', '--steps', '2', '--runs', '1']
  const about = ['--device', 'cpu', '--variant', 'tiny-medium', '--directory', scratch.directory, ...sizes]
  const { code, stdout } = await bench(['gpu', '--short', ...about])
  expect(code).toBe(0)
  const report = await readFile(path.join(scratch.directory, 'gpu-short.md'), 'utf8')
  expect(stdout).toContain(report.trim())
  expect(stdout).toContain(`The report is in ${path.join(scratch.directory, 'gpu-short.md')}`)
  expect(report).toMatch(/\| → first image of 64², 4 steps \| [\d.]+ s \|/)
  expect(report).toMatch(/\| warm image of 64², 2 steps with guidance \| [\d.]+ s \|/)
  expect(report).toMatch(/\| checkpoint and package \| [\d.]+ s \|/)
  expect(report).toContain('native and portable | not measured: the checks ended with 1: test:gpu: these checks need')
  expect(report).toMatch(/FP8 products \(random weights\) \| not measured: /)
  expect(report).toMatch(new RegExp(`Rates of the operators: not measured: ${UNTIMED}`))
  expect(existsSync(path.join(scratch.directory, 'tiny-medium', 'checkpoint'))).toBe(false)
}, 240_000)
