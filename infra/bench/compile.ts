// Speed of compiling a full-size checkpoint, relative to `cp` of the same bytes on the same disk.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { writeSyntheticCheckpoint } from '../checkpoints/synthetic.ts'
import { endGroupWithThis } from '../command/child-process.ts'
import { makeScratch } from '../command/scratch.ts'

const MAIN = path.join(import.meta.dirname, '../../gpu-fn/compile/main.ts')

export type CompileBenchOptions = { readonly variant: 'large' | 'medium'; readonly directory?: string }

/** Prints seconds, MB/s and peak memory of compiling random weights to FP8, and the ratio to `cp`. Both include the sync to disk. */
export async function benchCompile({ variant, directory = os.tmpdir() }: CompileBenchOptions): Promise<void> {
  await using scratch = makeScratch('octet-bench-', directory)
  const checkpoint = path.join(scratch.directory, `${variant}.safetensors`)
  await writeSyntheticCheckpoint({ variant, out: checkpoint })
  const { size } = await fs.stat(checkpoint)
  const copy = path.join(scratch.directory, 'copy')
  const copying = await timeCommand('sh', ['-c', 'cp "$0" "$1" && sync "$1"', checkpoint, copy])
  await fs.rm(copy)
  const compiling = await timeCommand(process.execPath, [
    MAIN,
    '--checkpoint',
    checkpoint,
    '--out',
    path.join(scratch.directory, 'package'),
    '--allow-missing-encoders',
  ])
  const formatRate = (seconds: number) => `${seconds.toFixed(1)} s, ${(size / 1e6 / seconds).toFixed(0)} MB/s`
  console.log(compiling.stdout.trim())
  console.log(
    `${variant}, ${(size / 1e9).toFixed(2)} GB: cp ${formatRate(copying.seconds)}; compile ${formatRate(compiling.seconds)}`,
  )
  console.log(`compile / cp ${(compiling.seconds / copying.seconds).toFixed(2)}`)
}

async function timeCommand(command: string, args: string[]): Promise<{ seconds: number; stdout: string }> {
  const start = performance.now()
  const child = endGroupWithThis(spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true }))
  const [stdout, [status, signal]] = await Promise.all([text(child.stdout), once(child, 'close')])
  if (status !== 0) throw new Error(`${command} ended with ${status ?? signal}`)
  return { seconds: (performance.now() - start) / 1000, stdout }
}
