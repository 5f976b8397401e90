// The packages that `npm run serve` serves: named checkpoints, packages and repositories, compiled and offered.
import { mkdir, readdir, rm, stat, symlink } from 'node:fs/promises'
import path from 'node:path'
import { isAnotherProcess } from '../../../gpu-fn/compile/place.ts'
import { LIMITS } from '../../../gpu-fn/contract.ts'
import type { Manifest, Package, Target, Tier } from '../../../gpu-fn/manifest.ts'
import { samplerOf } from '../../../gpu-fn/pipeline/schedulers/schedulers.ts'
import { MANIFEST, openPackage } from '../../../gpu-fn/weights/packages.ts'
import { makePrivateDirectory } from '../../command/private-files.ts'
import {
  assertAccess,
  fetchCheckpoint,
  openLocalCheckpoint,
  packageOf,
  REPOSITORIES,
  WEIGHTS,
} from '../../weights/checkpoint.ts'
import type { LocalModels } from '../local.ts'
import type { LocalOffer } from '../servers/worker.ts'

export type Route = 'turbo' | 'full'
/** A model to serve: a local checkpoint, a package, or a repository of the hub. `route` is the model's own unless given. */
export type Source = { kind: 'checkpoint' | 'package' | 'hub'; given: string; route?: Route }
type ServeOptions = { tier: Tier; target: Target; hub?: string | undefined }

/** The maximum size of an image, relative to the model's default size. */
const LARGER = 1.5

const exists = (file: string) => stat(file).then(Boolean, () => false)

/** The kind of a path or name: a directory with a manifest is a package, and OWNER/NAME without a file is a repository. Throws for others. */
export async function sourceOf(given: string, route?: Route): Promise<Source> {
  const chosen = route ? { given, route } : { given }
  if (await exists(path.join(given, MANIFEST))) return { kind: 'package', ...chosen }
  if (await exists(given)) return { kind: 'checkpoint', ...chosen }
  if (/^[\w.-]+\/[\w.-]+$/.test(given)) return { kind: 'hub', ...chosen }
  throw new Error(`${given}: no such file or directory, and not the name of a repository (OWNER/NAME)`)
}

/** Checks all sources before the first long step. Throws with the input and advice. */
export async function checkSources(sources: readonly Source[], { hub }: Pick<ServeOptions, 'hub'>): Promise<void> {
  for (const { kind, given } of sources) {
    if (kind === 'hub') await assertAccess({ repo: given, hub })
    else if (!(await exists(given))) throw new Error(`${given}: no such file or directory`)
    if (kind === 'package') await openPackage(given)
  }
}

/** The name of a repository's variant; undefined for one of another owner. */
const variantOf = (repo: string) => Object.entries(REPOSITORIES).find(([, each]) => each === repo)?.[0]

async function makePackage(source: Source, { tier, target, hub }: ServeOptions): Promise<string> {
  const { kind, given } = source
  if (kind === 'package') return given
  if (kind === 'hub') {
    const variant = variantOf(given)
    const checkpoint = await fetchCheckpoint({ repo: given, hub, directory: WEIGHTS, tier, reuse: true })
    return packageOf(checkpoint, { name: nameOf(given), tier, target, variant })
  }
  return packageOf(await openLocalCheckpoint(given, { tier, target }), { name: nameOf(given), tier, target })
}

/** The model name of a path or repository: its last part in the letters that requests allow. */
export function nameOf(given: string): string {
  const base = path
    .basename(given)
    .replace(/\.(safetensors|gguf|index\.json)$/g, '')
    .toLowerCase()
  const name = base
    .replace(/^stable-diffusion-3\.5-/, '')
    .split(/[^a-z0-9]+/)
    .filter(Boolean)
    .join('-')
  return name.slice(0, 64) || 'model'
}

/** The offer of a package, with its own defaults. A model without guidance is the turbo route. */
export function offerOf({ model, tier, defaults, position, latent, scheduler }: Manifest, route?: Route): LocalOffer {
  const own: Route = defaults.guidance_scale === 1 ? 'turbo' : 'full'
  const multiple = latent.downsample * latent.patch_size
  const { width, height, steps, guidance_scale } = defaults
  const side = Math.floor((Math.max(width, height) * LARGER) / multiple) * multiple
  return {
    ...{ route: route ?? own, model, tier, steps, width, height },
    guidance_scale: route === 'turbo' ? 1 : guidance_scale,
    sampler: samplerOf({}, scheduler),
    max_pixels: Math.floor(width * height * LARGER),
    max_side: Math.min(side, position.max * multiple, LIMITS.side.max),
  }
}

/** This process's directory of served packages in a state, which other processes may use. Removes those of ended processes. */
export async function servedDirectory(state: string): Promise<string> {
  await makePrivateDirectory(state)
  for (const name of await readdir(state)) {
    const [, pid] = /^served-(\d+)$/.exec(name) ?? []
    if (pid && !isAnotherProcess(Number(pid))) await rm(path.join(state, name), { recursive: true, force: true })
  }
  return path.join(state, `served-${process.pid}`)
}

/** Makes the packages of all sources, and links them into `directory`. */
export async function serveModels(
  sources: readonly Source[],
  directory: string,
  options: ServeOptions,
): Promise<LocalModels & { offers: LocalOffer[] }> {
  const served: { pkg: Package; route?: Route | undefined }[] = []
  for (const source of sources) {
    const pkg = await openPackage(await makePackage(source, options))
    served.push({ pkg, route: source.route })
  }
  await mkdir(directory, { recursive: true })
  const names = served.map(({ pkg: { manifest } }) => `${manifest.model}:${manifest.tier}`)
  const twice = names.find((name, k) => names.indexOf(name) !== k)
  if (twice) throw new Error(`two of the given models are ${twice}: rename one of their files or directories`)
  for (const [k, { pkg }] of served.entries())
    await symlink(pkg.directory, path.join(directory, names[k]!.replace(':', '-')))
  const offers = served.map(({ pkg, route }) => offerOf(pkg.manifest, route))
  return { packages: directory, preload: names, offers }
}
