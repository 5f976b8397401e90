// Valid packages without usable networks, for tests that only copy them.
import { createHash, randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { MANIFEST_FORMAT, type Manifest } from '../../gpu-fn/manifest.ts'

export const sha256 = (data: string | Uint8Array) => createHash('sha256').update(data).digest('hex')
export const createNoise = (bytes: number) => new Uint8Array(randomBytes(bytes))

const NETWORKS = ['conditioning', 'transformer', 'vae_decoder'] as const

/** Writes a package with these files and the required networks. Returns its manifest and digest. */
export function writeFakePackage(directory: string, files: Record<string, Uint8Array>, change: Partial<Manifest> = {}) {
  return completeFakePackage(directory, change, async () => {
    for (const [name, data] of Object.entries(files)) {
      await mkdir(path.dirname(path.join(directory, name)), { recursive: true })
      await writeFile(path.join(directory, name), data)
    }
  })
}

/** Writes files with `write` into the directory, then adds the rest of a package. */
export async function completeFakePackage(
  directory: string,
  change: Partial<Manifest>,
  write: () => Promise<void>,
): Promise<{ manifest: Manifest; digest: string }> {
  await mkdir(directory, { recursive: true })
  for (const name of NETWORKS) await writeFile(path.join(directory, `${name}.onnx`), name)
  await write()
  const manifest: Manifest = {
    ...{ format: MANIFEST_FORMAT, model: 'large-turbo', variant: 'large-turbo', tier: 'fp8', target: 'cuda' },
    ...{ tool: 'octet 0.1.0', license: 'see NOTICE', source: sha256('source') },
    defaults: { steps: 4, guidance_scale: 1, width: 64, height: 64 },
    scheduler: { name: 'FlowMatchEulerDiscreteScheduler', shift: 3, num_train_timesteps: 1000 },
    latent: { channels: 16, downsample: 8, patch_size: 2 },
    position: { max: 192, width: 64 },
    text: { encoders: [], segments: [], joint_width: 64, pooled_width: 64 },
    transformer_batch: null,
    networks: Object.fromEntries(NETWORKS.map((name) => [name, { file: `${name}.onnx`, inputs: [], outputs: [] }])),
    weights: {},
    files: await digestsOf(directory),
    ...change,
  }
  const text = JSON.stringify(manifest)
  await writeFile(path.join(directory, 'manifest.json'), text)
  return { manifest, digest: sha256(text) }
}

async function digestsOf(directory: string): Promise<Manifest['files']> {
  const files: Manifest['files'] = {}
  for (const name of (await readdir(directory, { recursive: true })).sort()) {
    const at = path.join(directory, name)
    const found = await stat(at)
    if (!found.isFile()) continue
    const hash = createHash('sha256')
    for await (const chunk of createReadStream(at)) hash.update(chunk)
    files[name] = { bytes: found.size, sha256: hash.digest('hex') }
  }
  return files
}
