// `npm run weights -- …`: a checkpoint from the hub, compiled, and its package where the GPU function finds it.
import path from 'node:path'
import { Command, Option } from 'commander'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { showProgress } from '../../gpu-fn/compile/progress.ts'
import { VARIANTS } from '../../gpu-fn/models/sd35/variants.ts'
import { COMPILER } from '../local/built-in-model.ts'
import { cacheDirectory, digestOf, makeOnce, ROOT } from '../local/package-cache.ts'
import { downloadCheckpoint } from './hub.ts'
import { rollBack, uploadPackage, uploadTarget } from './upload.ts'
import { putOnVolume } from './volume.ts'

/** Where Stability AI publishes each variant. */
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
    'Downloads SD3.5 from the Hugging Face hub, compiles it, and uploads the package. Sent again, it does what is missing.',
  )
  .requiredOption('--variant <name>', `one of ${VARIANTS.map(({ name }) => name).join(', ')}`)
  .addOption(new Option('--tier <tier>', 'precision').choices(['fp8', 'fp8-lite', 'fp16']).default('fp8'))
  .addOption(
    new Option('--target <target>', 'what it runs on').choices(['cuda-fp8', 'cuda', 'cpu']).default('cuda-fp8'),
  )
  .option('--name <name>', 'the name that jobs ask for; the variant by default')
  .option('--checkpoint <path>', 'a diffusers directory on this disk in place of the hub')
  .option('--repo <owner/name>', "the hub's repository; Stability AI's of the variant by default")
  .option('--revision <name>', 'branch, tag or commit')
  .addOption(new Option('--hub <url>', 'another hub').env('HF_ENDPOINT'))
  .option('--directory <path>', 'where checkpoints of the hub are kept', path.join(ROOT, '.octet', 'weights'))
  .addOption(
    new Option(
      '--bucket <url>',
      'upload to this S3-compatible bucket, https://endpoint/bucket, with OCTET_BUCKET_KEY_ID and OCTET_BUCKET_SECRET',
    ).env('OCTET_BUCKET'),
  )
  .addOption(new Option('--bucket-region <name>', 'its region').env('OCTET_BUCKET_REGION').default('auto'))
  .option('--volume <name>', 'upload to this Modal volume, with the modal command')
  .option('--rollback', 'serve the package that the bucket served before, and do nothing else')

const sized = (bytes: number) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`)

/** The directory of a diffusers checkpoint, and a name for what is in it. */
async function checkpointOf(flags: Flags): Promise<{ at: string; content: string }> {
  const { variant, checkpoint } = flags
  if (checkpoint)
    return {
      at: checkpoint,
      content: await digestOf([path.join(path.resolve(checkpoint), '**/*.{safetensors,json,txt,model}')]),
    }
  const repo = flags.repo ?? REPOSITORIES[variant]
  if (!repo)
    throw new Error(`no repository of ${variant} is known; name one with --repo, or a directory with --checkpoint`)
  const at = path.join(flags.directory, 'checkpoints', repo.replace('/', '--'))
  console.error(`Downloading ${repo} to ${at}`)
  const progress = showProgress()
  const { HF_TOKEN: token } = process.env
  const from = {
    repo,
    ...(flags.revision && { revision: flags.revision }),
    ...(flags.hub && { hubUrl: flags.hub }),
    ...(token && { token }),
  }
  const { content } = await downloadCheckpoint(at, {
    ...from,
    withoutT5: flags.tier === 'fp8-lite',
    onProgress: progress.update,
  }).finally(progress.stop)
  return { at, content: content.slice(0, 16) }
}

async function packageOf(flags: Flags): Promise<string> {
  const { variant, tier, target, name = variant } = flags
  const { at, content } = await checkpointOf(flags)
  const state = await cacheDirectory(
    `weights/packages/${name}-${tier}-${target}`,
    `${content}-${await digestOf(COMPILER)}`,
  )
  const directory = path.join(state, `${name}-${tier}`)
  const progress = showProgress()
  await makeOnce(directory, (out) =>
    compile({ checkpoint: [at], out, tier, target, variant, name, onProgress: progress.update }),
  ).finally(progress.stop)
  return directory
}

async function main(flags: Flags): Promise<void> {
  const { variant, tier, target, name = variant, bucket, volume } = flags
  const { OCTET_BUCKET_KEY_ID: accessKeyId = '', OCTET_BUCKET_SECRET: secretAccessKey = '' } = process.env
  const to =
    bucket === undefined
      ? null
      : uploadTarget({ url: bucket, accessKeyId, secretAccessKey, region: flags.bucketRegion })
  if (flags.rollback) {
    if (!to) throw new Error('--rollback needs --bucket: a volume has one package of a model')
    console.log(
      `${name}:${tier} for ${target} is served from package ${await rollBack(to, { model: name, tier, target })}`,
    )
    return
  }
  console.error(VARIANTS.find((each) => each.name === variant)?.license ?? 'The weights are licensed by their author.')
  const directory = await packageOf(flags)
  console.log(`package ${directory}`)
  if (to) {
    const progress = showProgress()
    const {
      package: digest,
      sentBytes,
      presentBytes,
      pointed,
    } = await uploadPackage(to, directory, {
      onProgress: (done, total) => progress.update(done, total, 'upload'),
    }).finally(progress.stop)
    console.log(
      `${bucket}: ${sized(sentBytes)} sent, ${sized(presentBytes)} were there; package ${digest} ${pointed ? 'is served now' : 'was served already'}`,
    )
  }
  if (volume) console.log(await putOnVolume(volume, directory))
}

await main(command.parse().opts<Flags>()).catch((error: Error) => {
  console.error(`weights: ${error.message}`)
  process.exitCode = 1
})
