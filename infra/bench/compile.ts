// Speed of compiling a full-size checkpoint, relative to `cp` of the same bytes on the same disk.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { writeSyntheticCheckpoint } from '../checkpoints/synthetic.ts'

const MAIN = path.join(import.meta.dirname, '../../gpu-fn/compile/main.ts')

export type CompileBenchOptions = { readonly variant: 'large' | 'medium'; readonly directory?: string }

/** Prints seconds, MB/s and peak memory of compiling random weights to FP8, and the ratio to `cp`. Both include the sync to disk. */
export async function benchCompile({ variant, directory = os.tmpdir() }: CompileBenchOptions): Promise<void> {
  const scratch = await fs.mkdtemp(path.join(directory, 'octet-bench-'))
  try {
    const checkpoint = path.join(scratch, `${variant}.safetensors`)
    await writeSyntheticCheckpoint({ variant, out: checkpoint })
    const { size } = await fs.stat(checkpoint)
    const copy = path.join(scratch, 'copy')
    const copying = timed('sh', ['-c', 'cp "$0" "$1" && sync "$1"', checkpoint, copy])
    await fs.rm(copy)
    const compiling = timed(process.execPath, [
      MAIN,
      '--checkpoint',
      checkpoint,
      '--out',
      path.join(scratch, 'package'),
      '--allow-missing-encoders',
    ])
    const rate = (seconds: number) => `${seconds.toFixed(1)} s, ${(size / 1e6 / seconds).toFixed(0)} MB/s`
    console.log(compiling.stdout.trim())
    console.log(
      `${variant}, ${(size / 1e9).toFixed(2)} GB: cp ${rate(copying.seconds)}; compile ${rate(compiling.seconds)}`,
    )
    console.log(`compile / cp ${(compiling.seconds / copying.seconds).toFixed(2)}`)
  } finally {
    await fs.rm(scratch, { recursive: true })
  }
}

function timed(command: string, args: string[]): { seconds: number; stdout: string } {
  const start = performance.now()
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  if (status !== 0) throw new Error(`${command} ended with ${status}`)
  return { seconds: (performance.now() - start) / 1000, stdout }
}
