// Adapters compiled for a test.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { onTestFinished } from 'vitest'
import { compileLora } from '../../gpu-fn/compile/lora/lora.ts'
import type { LoraPackage } from '../../gpu-fn/manifest.ts'
import { openLora } from '../../gpu-fn/weights/lora-packages.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'

/** Compiles a LoRA file for the package in `base`, in a directory that the test removes. */
export async function compiledLora(file: string, base: string, name = 'tested'): Promise<LoraPackage> {
  const directory = await mkdtemp(path.join(tmpdir(), 'octet-lora-'))
  onTestFinished(() => rm(directory, { recursive: true }))
  const { manifest } = await openPackage(base)
  const out = path.join(directory, 'package')
  await compileLora({ lora: file, base: manifest, out, name })
  return openLora(out)
}
