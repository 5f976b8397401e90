// nano, the model that needs no download: its checkpoint is compiled once and cached in .octet/.
import { cp, glob, mkdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import { compileLora } from '../../../gpu-fn/compile/lora/lora.ts'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import { cacheDirectory, digestOf, makeOnce, ROOT } from './package-cache.ts'

export const NANO = path.join(ROOT, 'gpu-fn/nano')
/** Checkpoint directories by model. The directory of nano-flash exists only after its training. */
export const CHECKPOINTS = {
  'nano-turbo': path.join(NANO, 'turbo'),
  nano: NANO,
  'nano-flash': path.join(NANO, 'flash'),
} as const

export type BuiltInModel = keyof typeof CHECKPOINTS
export type Tier = Manifest['tier']

/** The models offered to users. */
export const BUILT_IN_MODELS = ['nano-turbo', 'nano'] as const satisfies readonly BuiltInModel[]
/** The tiers offered in wrangler.toml; the first is the default. */
export const SERVED_TIERS = ['fp8', 'fp8-lite'] as const

/** Sources that determine the bytes of a compiled package, apart from its checkpoint. */
export const COMPILER = [
  'package.json',
  'gpu-fn/manifest.ts',
  'gpu-fn/{compile,models}/**/*.*',
  'gpu-fn/tokenizer/known-words.ts',
]
/** Example adapters. */
const LORAS = 'gpu-fn/nano/lora/*.safetensors'
const CHECKPOINT = [
  'gpu-fn/nano/{transformer,vae,scheduler,text_encoder*,tokenizer*}/*',
  'gpu-fn/nano/{turbo,flash}/{transformer,scheduler}/*',
  'gpu-fn/nano/words.json',
]

/**
 * The directory of these models in these tiers, as `nano-fp8`, `nano-turbo-fp8` and so on. Compiles missing ones; `seconds` is the
 * duration.
 */
export async function prepareBuiltInPackages(
  tiers: readonly Tier[] = SERVED_TIERS,
  models: readonly BuiltInModel[] = BUILT_IN_MODELS,
): Promise<{ directory: string; seconds: number }> {
  const start = performance.now()
  const directory = await cacheDirectory('packages', await digestOf([...COMPILER, ...CHECKPOINT, LORAS]))
  for (const model of new Set<BuiltInModel>(['nano', ...models])) {
    for (const tier of tiers) {
      await makeOnce(path.join(directory, `${model}-${tier}`), (out) =>
        compile({ checkpoint: [CHECKPOINTS[model]], out, tier, target: 'cpu', variant: model, name: model }),
      )
    }
  }
  await compileLoras(path.join(directory, `nano-${tiers[0]}`), path.join(directory, 'loras'))
  return { directory, seconds: (performance.now() - start) / 1000 }
}

async function compileLoras(base: string, directory: string): Promise<void> {
  await mkdir(directory, { recursive: true })
  for await (const file of glob(LORAS, { cwd: ROOT })) {
    const manifest = JSON.parse(await readFile(path.join(base, 'manifest.json'), 'utf8')) as Manifest
    const lora = path.join(ROOT, file)
    await makeOnce(path.join(directory, path.parse(file).name), (out) => compileLora({ lora, base: manifest, out }))
  }
}

/** The package of one built-in model in one tier. */
export async function prepareBuiltInPackage(model: BuiltInModel, tier: Tier): Promise<string> {
  return path.join((await prepareBuiltInPackages([tier], [...BUILT_IN_MODELS, model])).directory, `${model}-${tier}`)
}

/** Copies nano's tokenizers into a checkpoint without tokenizers. */
export async function copyTokenizers(out: string): Promise<void> {
  for (const name of ['tokenizer', 'tokenizer_2', 'tokenizer_3'])
    await cp(path.join(NANO, name), path.join(out, name), { recursive: true })
}
