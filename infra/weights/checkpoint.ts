// A checkpoint to compile: local, or downloaded from the hub; and its package, compiled once and kept.
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { readModelIndex } from '../../gpu-fn/compile/checkpoint/layout/model-index.ts'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { chooseLowerings } from '../../gpu-fn/compile/lower/lowerings.ts'
import { showProgress } from '../../gpu-fn/compile/progress.ts'
import { hasT5 } from '../../gpu-fn/contract.ts'
import type { Target, Tier } from '../../gpu-fn/manifest.ts'
import { FAMILIES } from '../../gpu-fn/models/families.ts'
import { naming } from '../../gpu-fn/models/sd35/names/naming.ts'
import { COMPILER } from '../local/models/built-in-model.ts'
import { cacheDirectory, digestOf, makeOnce, ROOT, stampOf } from '../local/models/package-cache.ts'

/** Stability AI's repository of each variant. */
export const REPOSITORIES: Record<string, string> = {
  large: 'stabilityai/stable-diffusion-3.5-large',
  'large-turbo': 'stabilityai/stable-diffusion-3.5-large-turbo',
  medium: 'stabilityai/stable-diffusion-3.5-medium',
}

export const WEIGHTS = path.join(ROOT, '.octet', 'weights')

/** `content` identifies the files. */
export type Checkpoint = { path: string; content: string }
type HubSource = {
  repo: string
  revision?: string | undefined
  /** Address of another hub. */
  hub?: string | undefined
  /** Directory of downloaded checkpoints. */
  directory: string
  tier: Tier
  /** Uses a complete earlier download without a request. */
  reuse?: boolean
}

/** Throws HubError if the repository requires a token and none is set. */
export async function assertAccess({ repo, hub }: Pick<HubSource, 'repo' | 'hub'>): Promise<void> {
  if (hub || process.env.HF_TOKEN || !Object.values(REPOSITORIES).includes(repo)) return
  const { createLicenseError } = await import('./hub.ts')
  throw createLicenseError(repo)
}

/** Downloads missing files of a checkpoint. Throws HubError. */
export async function fetchCheckpoint({
  repo,
  revision,
  hub,
  directory,
  tier,
  reuse = false,
}: HubSource): Promise<Checkpoint> {
  const out = path.join(directory, 'checkpoints', repo.replace('/', '--'))
  console.error(`Downloading ${repo} to ${out}`)
  const { downloadCheckpoint } = await import('./hub.ts')
  const progress = showProgress()
  const { HF_TOKEN: token } = process.env
  const { content } = await downloadCheckpoint(out, {
    repo,
    ...(revision && { revision }),
    ...(hub && { hubUrl: hub }),
    ...(token && { token }),
    withoutT5: !hasT5(tier),
    reuse,
    onProgress: progress.update,
    checkIndex: (directory) => readModelIndex(directory, naming.pipelines),
  }).finally(progress.stop)
  return { path: out, content: content.slice(0, 16) }
}

/**
 * Opens a local checkpoint: a diffusers directory or a file of the single-file layout. Throws CheckpointError for one that cannot be
 * compiled, from its headers alone.
 */
export async function openLocalCheckpoint(given: string, options: Omit<PackageOptions, 'name'>): Promise<Checkpoint> {
  const at = path.resolve(given)
  const { openCheckpoint, buildModel } = FAMILIES.sd35
  buildModel(await openCheckpoint([at]), [at], options, chooseLowerings(options.target))
  const files = (await stat(at)).isDirectory() ? path.join(at, '**/*.{safetensors,gguf,json,txt,model}') : at
  return { path: at, content: await stampOf([files]) }
}

type PackageOptions = { name: string; tier: Tier; target: Target; variant?: string | undefined }

/** The directory of a checkpoint's package, NAME-TIER, compiled unless an earlier run did. Throws CheckpointError. */
export async function packageOf(checkpoint: Checkpoint, options: PackageOptions): Promise<string> {
  const { name, tier, target } = options
  const state = await cacheDirectory(
    `weights/packages/${name}-${tier}-${target}`,
    `${checkpoint.content}-${await digestOf(COMPILER)}`,
  )
  const directory = path.join(state, `${name}-${tier}`)
  const progress = showProgress()
  await makeOnce(directory, (out) =>
    compile({
      ...options,
      checkpoint: [checkpoint.path],
      out,
      onProgress: progress.update,
      onNote: (note) => console.error(note),
    }),
  ).finally(progress.stop)
  return directory
}
