// `npm run weights -- …`: downloads a checkpoint from the hub, compiles it, and uploads the package to a bucket or a volume.

import path from 'node:path'
import { Command, Option } from 'commander'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { showProgress } from '../../gpu-fn/compile/progress.ts'
import { VARIANTS } from '../../gpu-fn/models/sd35/variants.ts'
import { printError } from '../command/print.ts'
import { COMPILER } from '../local/built-in-model.ts'
import { cacheDirectory, digestOf, makeOnce, ROOT } from '../local/package-cache.ts'
import type { Target } from './upload.ts'

/** Stability AI's repository of each variant. */
const REPOSITORIES: Record<string, string> = {
  large: 'stabilityai/stable-diffusion-3.5-large',
  'large-turbo': 'stabilityai/stable-diffusion-3.5-large-turbo',
  medium: 'stabilityai/stable-diffusion-3.5-medium',
}

type Flags = {
  variant: string
  tier: 'fp8' | 'fp8-lite' | 'fp16'
  target: 'cuda-fp8' | 'cuda' | 'cpu'
  name?: string
  repo?: string
  revision?: string
  checkpoint?: string
  hub?: string
  directory: string
  bucket?: string
  bucketRegion: string
  volume?: string
  rollback?: boolean
}

const command = new Command('weights')
  .description(
    'Downloads SD3.5 from the Hugging Face hub, compiles it, and uploads the package. Completed steps are skipped on the next run.',
  )
  .requiredOption('--variant <name>', `one of ${VARIANTS.map(({ name }) => name).join(', ')}`)
  .addOption(new Option('--tier <tier>', 'precision').choices(['fp8', 'fp8-lite', 'fp16']).default('fp8'))
  .addOption(
    new Option('--target <target>', 'compilation target').choices(['cuda-fp8', 'cuda', 'cpu']).default('cuda-fp8'),
  )
  .option('--name <name>', 'model name in requests; the variant by default')
  .option('--checkpoint <path>', 'local diffusers directory, instead of the hub')
  .option('--repo <owner/name>', "repository on the hub; Stability AI's by default")
  .option('--revision <name>', 'branch, tag or commit')
  .addOption(new Option('--hub <url>', 'address of another hub').env('HF_ENDPOINT'))
  .option('--directory <path>', 'directory of downloaded checkpoints', path.join(ROOT, '.octet', 'weights'))
  .addOption(
    new Option(
      '--bucket <url>',
      'upload to this S3-compatible bucket, https://endpoint/bucket, with OCTET_BUCKET_KEY_ID and OCTET_BUCKET_SECRET',
    ).env('OCTET_BUCKET'),
  )
  .addOption(new Option('--bucket-region <name>', 'region of the bucket').env('OCTET_BUCKET_REGION').default('auto'))
  .option('--volume <name>', 'upload to this Modal volume, with the modal command')
  .option('--rollback', 'only make the bucket serve its previous package again')

const formatBytes = (bytes: number) =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`

type Checkpoint = { directory: string; content: string }

/** Downloads the checkpoint, unless it is local. `content` identifies its files. */
async function fetchCheckpoint(flags: Flags): Promise<Checkpoint> {
  const { variant, checkpoint } = flags
  if (checkpoint) {
    const files = path.join(path.resolve(checkpoint), '**/*.{safetensors,json,txt,model}')
    return { directory: checkpoint, content: await digestOf([files]) }
  }
  const repo = flags.repo ?? REPOSITORIES[variant]
  if (!repo) throw new Error(`${variant} has no default repository; set --repo or --checkpoint`)
  const directory = path.join(flags.directory, 'checkpoints', repo.replace('/', '--'))
  console.error(`Downloading ${repo} to ${directory}`)
  const { downloadCheckpoint } = await import('./hub.ts')
  const progress = showProgress()
  const { HF_TOKEN: token } = process.env
  const { content } = await downloadCheckpoint(directory, {
    repo,
    ...(flags.revision && { revision: flags.revision }),
    ...(flags.hub && { hubUrl: flags.hub }),
    ...(token && { token }),
    withoutT5: flags.tier === 'fp8-lite',
    onProgress: progress.update,
  }).finally(progress.stop)
  return { directory, content: content.slice(0, 16) }
}

/** Compiles the checkpoint unless an earlier run did, and returns the directory of the package. */
async function makePackage(flags: Flags): Promise<string> {
  const { variant, tier, target, name = variant } = flags
  const checkpoint = await fetchCheckpoint(flags)
  const state = await cacheDirectory(
    `weights/packages/${name}-${tier}-${target}`,
    `${checkpoint.content}-${await digestOf(COMPILER)}`,
  )
  const directory = path.join(state, `${name}-${tier}`)
  const progress = showProgress()
  await makeOnce(directory, (out) =>
    compile({
      ...{ checkpoint: [checkpoint.directory], out, tier, target, variant, name },
      ...{ onProgress: progress.update, onNote: (note) => console.error(note) },
    }),
  ).finally(progress.stop)
  return directory
}

async function upload(to: Target, bucket: string, directory: string): Promise<void> {
  const { uploadPackage } = await import('./upload.ts')
  const progress = showProgress()
  const uploaded = await uploadPackage(to, directory, {
    onProgress: (done, total) => progress.update(done, total, 'upload'),
  }).finally(progress.stop)
  const sizes = `${formatBytes(uploaded.sentBytes)} sent, ${formatBytes(uploaded.presentBytes)} already present`
  const state = uploaded.pointed ? 'is now served' : 'was already served'
  console.log(`${bucket}: ${sizes}; package ${uploaded.package} ${state}`)
}

async function openTarget({ bucket, bucketRegion }: Flags): Promise<Target | null> {
  if (bucket === undefined) return null
  const { OCTET_BUCKET_KEY_ID: accessKeyId = '', OCTET_BUCKET_SECRET: secretAccessKey = '' } = process.env
  const { uploadTarget } = await import('./upload.ts')
  return uploadTarget({ url: bucket, accessKeyId, secretAccessKey, region: bucketRegion })
}

async function main(flags: Flags): Promise<void> {
  const { variant, tier, target, name = variant, bucket, volume } = flags
  const to = await openTarget(flags)
  if (flags.rollback) {
    if (!to) throw new Error('--rollback needs --bucket: a volume has no previous packages')
    const { rollBack } = await import('./upload.ts')
    const digest = await rollBack(to, { model: name, tier, target })
    return console.log(`${name}:${tier} for ${target} is served from package ${digest}`)
  }
  const license = VARIANTS.find((each) => each.name === variant)?.license
  console.error(license ?? 'The license of the weights is that of their author.')
  const directory = await makePackage(flags)
  console.log(`package ${directory}`)
  if (to) await upload(to, bucket!, directory)
  if (volume) console.log(await (await import('./volume.ts')).putOnVolume(volume, directory))
}

await main(command.parse().opts<Flags>()).catch((error: Error) => {
  printError('weights', error)
  process.exitCode = 1
})
