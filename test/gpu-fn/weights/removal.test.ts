import { spawn } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { removeDirectory } from '../../../gpu-fn/weights/removal.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const FILES = 3_000
const REMOVAL = path.join(import.meta.dirname, '../../../gpu-fn/weights/removal.ts')

async function writeDirectory(files: number): Promise<string> {
  const directory = path.join(scratch.directory, 'package')
  await mkdir(directory, { recursive: true })
  for (let k = 0; k < files; k++) await writeFile(path.join(directory, `${k}.bin`), '')
  return directory
}

test('a process that is killed while it removes a directory leaves no incomplete one under its name', async () => {
  const directory = await writeDirectory(FILES)
  const code = `import(${JSON.stringify(REMOVAL)}).then((m) => m.removeDirectory(${JSON.stringify(directory)}))`
  const child = spawn(process.execPath, ['-e', code], { stdio: 'inherit' })
  const exited = new Promise((resolve) => child.on('exit', (_, signal) => resolve(signal)))
  const isComplete = () => existsSync(directory) && readdirSync(directory).length === FILES
  while (isComplete() && child.exitCode === null) await new Promise(setImmediate)
  child.kill('SIGKILL')
  expect(await exited).toBe('SIGKILL')
  expect(existsSync(directory)).toBe(false)
})

test('removes the directory and its content, and accepts one that does not exist', async () => {
  const directory = await writeDirectory(3)
  await removeDirectory(directory)
  await removeDirectory(directory)
  expect(await readdir(scratch.directory)).toEqual([])
})
