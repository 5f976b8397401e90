// Packages that are sound but compute nothing, for what only moves them.
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Manifest } from '../gpu-fn/compile/manifest.ts'

export const sha256 = (data: string | Uint8Array) => createHash('sha256').update(data).digest('hex')

const NETWORKS = ['conditioning', 'transformer', 'vae_decoder'] as const

/** A package of these files, besides the networks that one must have. Returns its manifest and digest. */
export async function writeFakePackage(
  directory: string,
  files: Record<string, Uint8Array>,
  change: Partial<Manifest> = {},
): Promise<{ manifest: Manifest; digest: string }> {
  const all: Record<string, Uint8Array> = {
    ...Object.fromEntries(NETWORKS.map((name) => [`${name}.onnx`, new TextEncoder().encode(name)])),
    ...files,
  }
  for (const [name, data] of Object.entries(all)) {
    await mkdir(path.dirname(path.join(directory, name)), { recursive: true })
    await writeFile(path.join(directory, name), data)
  }
  const manifest: Manifest = {
    ...{ format: 1, model: 'large-turbo', variant: 'large-turbo', tier: 'fp8', target: 'cuda' },
    ...{ tool: 'octet 0.1.0', licence: 'see NOTICE', source: sha256('source') },
    defaults: { steps: 4, guidance_scale: 1, width: 64, height: 64 },
    scheduler: { shift: 3, num_train_timesteps: 1000 },
    latent: { channels: 16, downsample: 8, patch_size: 2 },
    position: { max: 192, source: 'graph', width: 64 },
    text: { clip_l: null, clip_g: null, t5: null, joint_width: 64, pooled_width: 64 },
    transformer_batch: null,
    networks: Object.fromEntries(NETWORKS.map((name) => [name, { file: `${name}.onnx`, inputs: [], outputs: [] }])),
    files: Object.fromEntries(
      Object.entries(all).map(([name, data]) => [name, { bytes: data.length, sha256: sha256(data) }]),
    ),
    ...change,
  }
  const text = JSON.stringify(manifest)
  await writeFile(path.join(directory, 'manifest.json'), text)
  return { manifest, digest: sha256(text) }
}

export const noise = (bytes: number) => new Uint8Array(randomBytes(bytes))
