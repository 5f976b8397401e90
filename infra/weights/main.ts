// `npm run weights -- …`: downloads a checkpoint from the hub, compiles it, and uploads the package to a bucket or a volume.
import { Command, Option } from 'commander'
import { assertOptions } from '../../gpu-fn/compile/compile.ts'
import { showProgress } from '../../gpu-fn/compile/progress.ts'
import { TIERS, type Tier } from '../../gpu-fn/contract.ts'
import { TARGETS, type Target } from '../../gpu-fn/manifest.ts'
import { VARIANTS } from '../../gpu-fn/models/sd35/variants.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { prepareCommand } from '../command/npm.ts'
import { printError } from '../command/print.ts'
import { assertAccess, fetchCheckpoint, openLocalCheckpoint, packageOf, REPOSITORIES, WEIGHTS } from './checkpoint.ts'
import type { BucketTarget } from './upload.ts'

type Flags = {
  variant: string
  tier: Tier
  target: Target
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
  .addOption(
    new Option('--variant <name>', 'network shapes and defaults')
      .choices(VARIANTS.map(({ name }) => name))
      .makeOptionMandatory(),
  )
  .addOption(new Option('--tier <tier>', 'precision').choices(TIERS).default('fp8'))
  .addOption(new Option('--target <target>', 'compilation target').choices(TARGETS).default('cuda-fp8'))
  .option('--name <name>', 'model name in requests; the variant by default')
  .option('--checkpoint <path>', 'local diffusers directory, instead of the hub')
  .option('--repo <owner/name>', "repository on the hub; Stability AI's by default")
  .option('--revision <name>', 'branch, tag or commit')
  .addOption(new Option('--hub <url>', 'address of another hub').env('HF_ENDPOINT'))
  .option('--directory <path>', 'directory of downloaded checkpoints', WEIGHTS)
  .addOption(
    new Option(
      '--bucket <url>',
      'upload to this S3-compatible bucket, https://endpoint/bucket, with OCTET_BUCKET_KEY_ID and OCTET_BUCKET_SECRET',
    ).env('OCTET_BUCKET'),
  )
  .addOption(new Option('--bucket-region <name>', 'region of the bucket').env('OCTET_BUCKET_REGION').default('auto'))
  .option('--volume <name>', 'upload to this Modal volume, with the modal command')
  .option('--rollback', 'restore the previous package of the bucket, without an upload')

const formatBytes = (bytes: number) =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`

/** Checks everything that a later step depends on, before the first long step. */
async function checkInputs(flags: Flags, repo: string | undefined): Promise<void> {
  const { tier, target, name, volume } = flags
  assertOptions({ tier, target, name })
  if (volume) await (await import('./volume.ts')).assertVolumeAccess()
  if (flags.checkpoint) return
  if (!repo) throw new Error(`${flags.variant} has no default repository; set --repo or --checkpoint`)
  await assertAccess({ repo, hub: flags.hub })
}

/** Makes the package, and returns its directory. */
async function makePackage(flags: Flags, repo: string | undefined): Promise<string> {
  const { variant, tier, target, name = variant } = flags
  const checkpoint = flags.checkpoint
    ? await openLocalCheckpoint(flags.checkpoint, { variant, tier, target })
    : await fetchCheckpoint({ ...flags, repo: repo! })
  return packageOf(checkpoint, { variant, tier, target, name })
}

async function upload(to: BucketTarget, bucket: string, directory: string): Promise<void> {
  const { uploadPackage } = await import('./upload.ts')
  const progress = showProgress()
  const uploaded = await uploadPackage(to, directory, {
    onProgress: (done, total) => progress.update(done, total, 'upload'),
  }).finally(progress.stop)
  const sizes = `${formatBytes(uploaded.sentBytes)} sent, ${formatBytes(uploaded.presentBytes)} already present`
  const state = uploaded.pointed ? 'is now served' : 'was already served'
  console.log(`${bucket}: ${sizes}; package ${uploaded.package} ${state}`)
}

async function openTarget({ bucket, bucketRegion }: Flags): Promise<BucketTarget | null> {
  if (bucket === undefined) return null
  const { OCTET_BUCKET_KEY_ID: accessKeyId, OCTET_BUCKET_SECRET: secretAccessKey } = process.env
  if (!accessKeyId || !secretAccessKey)
    throw new Error('--bucket needs OCTET_BUCKET_KEY_ID and OCTET_BUCKET_SECRET, which are not both set')
  const { checkAccess, createUploadTarget } = await import('./upload.ts')
  const target = createUploadTarget({ url: bucket, accessKeyId, secretAccessKey, region: bucketRegion })
  await checkAccess(target)
  return target
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
  const repo = flags.repo ?? REPOSITORIES[variant]
  await checkInputs(flags, repo)
  const license = VARIANTS.find((each) => each.name === variant)?.license
  console.error(license ?? 'The license of the weights is that of their author.')
  const directory = await makePackage(flags, repo)
  console.log(`package ${directory}`)
  if (to) await upload(to, bucket!, directory)
  if (volume) console.log(await (await import('./volume.ts')).putOnVolume(volume, directory))
}

endOnSignals()
await main(prepareCommand(command).parse().opts<Flags>()).catch((error: Error) => {
  printError('weights', error)
  process.exitCode = 1
})
