// Compiled tiny ControlNets.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { compileControlnet } from '../../../gpu-fn/compile/controlnet.ts'
import type { ControlType } from '../../../gpu-fn/manifest.ts'
import { type TinyControlnet, writeTinyControlnet } from '../../../infra/checkpoints/tiny/controlnet.ts'

/** Compiles a tiny ControlNet for the CPU into `out`, in float32. */
export async function compileTinyControlnet(
  out: string,
  { type, ...options }: TinyControlnet & { type: ControlType },
): Promise<void> {
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-controlnet-'))
  try {
    const controlnet = await writeTinyControlnet(scratch, options)
    await compileControlnet({ controlnet, out, name: path.basename(out), type, tier: 'fp32', target: 'cpu' })
  } finally {
    await rm(scratch, { recursive: true })
  }
}
