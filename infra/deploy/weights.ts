// The step that checks the packages: every model to serve has one, and a GPU of each type holds all of them at once.
import { memoryOfAll, planMemory } from '../../gpu-fn/engine/package/memory-plan.ts'
import type { Manifest } from '../../gpu-fn/manifest.ts'
import { openBucket } from '../../gpu-fn/weights/download/bucket.ts'
import { MANIFEST, parseManifest } from '../../gpu-fn/weights/packages.ts'
import { findServed } from '../../gpu-fn/weights/served-package.ts'
import { describeMeasured, findTypesTooSmall } from './gpu-types.ts'
import type { CommandLine, Step, World } from './plan.ts'
import type { BucketSecrets } from './secrets-file.ts'

const split = (served: string) => served.split(':') as [model: string, tier: 'fp8']
const directoryOf = (served: string) => split(served).join('-')
const listVolume = (volume: string): CommandLine => ['modal', 'volume', 'ls', volume, '/', '--json']
const manifestOf = (volume: string, served: string): CommandLine => [
  ...['modal', 'volume', 'get', volume, `/${directoryOf(served)}/${MANIFEST}`, '-'],
]

/** Checks the packages to be served. Throws for absent ones, and for a GPU type that cannot hold all of them. */
export const createWeightsStep = (bucket: () => BucketSecrets | undefined): Step => ({
  id: 'weights',
  what: 'The packages to serve, and their memory on each GPU type',
  commands: ({ gpu }) =>
    gpu.packages === 'volume'
      ? [
          { command: listVolume(gpu.volume) },
          ...gpu.models.map((served) => ({ command: manifestOf(gpu.volume, served) })),
        ]
      : gpu.models.map((served) => ({
          command: ['curl', '--fail', `<OCTET_BUCKET>/…${directoryOf(served)}`],
          condition: 'signed',
        })),
  async run(world) {
    const { gpu } = world.config
    const manifests = gpu.packages === 'volume' ? await onVolume(world) : await listInBucket(gpu.models, bucket()!)
    assertFits(gpu.gpus, manifests)
    world.say(`   ${describeMeasured(gpu.gpus)}`)
  },
  otherwise:
    'Upload each with `npm run weights -- --variant NAME --tier TIER` and --volume or --bucket, according to gpu.packages of the configuration.',
})

async function onVolume({ config: { gpu }, exec }: World): Promise<Manifest[]> {
  const entries = JSON.parse(await exec(listVolume(gpu.volume))) as Record<string, string>[]
  const names = new Set(
    entries.flatMap((entry) => Object.values(entry)).map((value) => String(value).replace(/^\/|\/$/g, '')),
  )
  assertPresent(gpu.models.filter((served) => !names.has(directoryOf(served))))
  const read = async (served: string) =>
    parseManifest(
      `volume ${gpu.volume}: ${directoryOf(served)}`,
      Buffer.from(await exec(manifestOf(gpu.volume, served))),
    )
  return Promise.all(gpu.models.map(read))
}

async function listInBucket(models: readonly string[], secrets: BucketSecrets): Promise<Manifest[]> {
  const { OCTET_BUCKET: url, OCTET_BUCKET_KEY_ID: accessKeyId, OCTET_BUCKET_SECRET: secretAccessKey } = secrets
  const source = openBucket({ url, accessKeyId, secretAccessKey })
  const absent: string[] = []
  const found: Manifest[] = []
  for (const served of models) {
    const [model, tier] = split(served)
    try {
      found.push((await findServed(source, { model, tier, target: 'cuda-fp8' })).manifest)
    } catch (error) {
      if (!(error as { missing?: boolean }).missing) throw error
      absent.push(served)
    }
  }
  assertPresent(absent)
  return found
}

function assertPresent(absent: readonly string[]): void {
  if (absent.length > 0) throw new Error(`no package of ${absent.join(', ')}`)
}

/** Throws unless a GPU of each type holds all models at once; otherwise each change of the model would load one again. */
function assertFits(gpus: readonly string[], manifests: readonly Manifest[]): void {
  const plans = manifests.map((manifest) =>
    planMemory(manifest, manifest.defaults, null, { target: manifest.target, samples: 2, widening: 1 }),
  )
  const needed = memoryOfAll(plans)
  const small = findTypesTooSmall(gpus, needed)
  if (small.length === 0) return
  const sizes = small.map(({ name, bytes }) => `${name} (${formatGigabytes(bytes)})`).join(', ')
  throw new Error(
    `gpu.models take ${formatGigabytes(needed)} of GPU memory together, more than these types of gpu.gpus have: ${sizes}. Serve fewer models, or remove the types`,
  )
}

const formatGigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`
