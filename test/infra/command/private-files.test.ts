// Files and directories with secrets are accessible only to their owner, even with a permissive umask.
import { exec, execFile } from 'node:child_process'
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { tightenFile, writePrivateFile } from '../../../infra/command/private-files.ts'
import { readSecretsFile, writePrivate } from '../../../infra/deploy/secrets-file.ts'
import { startWorker } from '../../../infra/local/servers/worker.ts'
import { createSecrets } from '../../../infra/operator/secrets.ts'
import { useScratch } from '../../support/scratch.ts'

const ROOT = path.join(import.meta.dirname, '../../..')
const scratch = useScratch()
const resolvePath = (name: string) => path.join(scratch.directory, name)
const modeOf = async (file: string) => (await stat(file)).mode & 0o777

let umask: number
beforeAll(() => {
  umask = process.umask(0o022)
})
afterAll(() => void process.umask(umask))

const runSecrets = (...args: string[]) =>
  promisify(execFile)(process.execPath, ['infra/operator/keys-command.ts', 'secrets', ...args], { cwd: ROOT })

describe('npm run keys -- secrets', () => {
  test('writes a file readable only by its owner, and does not overwrite an existing one', async () => {
    const file = resolvePath('dev.vars')
    const { stdout } = await runSecrets('--out', file)
    expect(stdout).not.toMatch(/OCTET_ADMIN_TOKEN|"d"/)
    expect(await modeOf(file)).toBe(0o600)
    const before = await readFile(file, 'utf8')
    expect(before).toMatch(/^OCTET_ADMIN_TOKEN='[0-9a-f]{64}'$/m)
    await expect(runSecrets('--out', file)).rejects.toMatchObject({
      stderr: expect.stringContaining('exists; to replace its'),
    })
    expect(await readFile(file, 'utf8')).toBe(before)
    expect(await readdir(scratch.directory)).toEqual(['dev.vars'])
  })

  test('rotates a file in place, restricts its permissions, and warns that others could read it', async () => {
    const file = resolvePath('dev.vars')
    await runSecrets('--out', file)
    await chmod(file, 0o644)
    const { stderr } = await runSecrets('--rotate', file, '--out', file)
    expect(stderr).toMatch(/dev\.vars contains secrets and had mode 0644/)
    expect(await modeOf(file)).toBe(0o600)
    expect(await readFile(file, 'utf8')).toMatch(/^KEY_PEPPER='2:[0-9a-f]{64},1:[0-9a-f]{64}'$/m)
  })

  test('restricts the permissions of a file that its output is redirected to', async () => {
    const file = resolvePath('redirected')
    await promisify(exec)(`"${process.execPath}" infra/operator/keys-command.ts secrets > "${file}"`, { cwd: ROOT })
    expect(await readFile(file, 'utf8')).toContain('OCTET_ADMIN_TOKEN=')
    expect(await modeOf(file)).toBe(0o600)
  })
})

test('the secrets file of a deployment is written with mode 0600, and a more permissive mode is corrected on reading', async () => {
  const file = resolvePath('deploy/secrets.json')
  const { secrets: worker, gpuPublicKey } = await createSecrets()
  await writePrivate(file, { worker, gpuPublicKey })
  expect([await modeOf(file), await modeOf(path.dirname(file))]).toEqual([0o600, 0o700])
  await chmod(file, 0o640)
  const warnings: string[] = []
  expect(await readSecretsFile(file, (line) => warnings.push(line))).toMatchObject({ worker })
  expect(await modeOf(file)).toBe(0o600)
  expect(warnings.join()).toContain('had mode 0640')
})

test("a worker's state directory becomes accessible only to its owner, even if it already existed with mode 0755", async () => {
  const persist = resolvePath('state')
  await mkdir(persist, { mode: 0o755 })
  const worker = await startWorker({ gpuUrl: 'http://127.0.0.1:9', persist, ...(await createSecrets()) })
  await worker.stop()
  expect((await readdir(persist, { recursive: true })).some((name) => name.endsWith('.sqlite'))).toBe(true)
  expect(await modeOf(persist)).toBe(0o700)
})

test('private and missing files cause no warning', async () => {
  const warnings: string[] = []
  await writePrivateFile(resolvePath('private'), 'x')
  for (const name of ['private', 'absent']) await tightenFile(resolvePath(name), (line) => warnings.push(line))
  expect(warnings).toEqual([])
})

test('a failed write keeps the old file and leaves no temporary file', async () => {
  await writeFile(resolvePath('kept'), 'old')
  await expect(writePrivateFile(resolvePath('kept'), 'new', { exclusive: true })).rejects.toThrow('EEXIST')
  expect(await readFile(resolvePath('kept'), 'utf8')).toBe('old')
  expect(await readdir(scratch.directory)).toEqual(['kept'])
})

test('a write succeeds although a killed process with the same ID has left its temporary file', async () => {
  await writeFile(resolvePath(`again.${process.pid}.new`), 'half')
  await writePrivateFile(resolvePath('again'), 'whole')
  expect(await readFile(resolvePath('again'), 'utf8')).toBe('whole')
})
