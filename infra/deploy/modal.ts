// The steps of a deployment on Modal, with its command: secret, weights, GPU function.
import { openBucket } from '../../gpu-fn/weights/bucket.ts'
import { POINTER_BYTES, pointerKey } from '../../gpu-fn/weights/layout.ts'
import type { DeployConfig } from '../config.ts'
import type { Step, World } from './plan.ts'
import type { BucketSecrets } from './secrets-file.ts'

const TIMEOUT_NOTE = 'see its log with `modal app logs`'

export const modalAccount: Step = {
  id: 'modal-account',
  what: 'Modal account',
  commands: () => [{ command: ['modal', 'token', 'info'] }],
  async run({ exec }) {
    await exec(['modal', 'token', 'info'])
  },
  otherwise:
    'Install the command with `npm run modal:setup` (needs python3) or `pip install modal`, then log in with `modal setup`.',
}

/** Checks that the packages to be served are available to the GPU function. */
export const weights = (bucket: () => BucketSecrets | undefined): Step => ({
  id: 'weights',
  what: 'Presence of the packages to serve',
  commands: ({ gpu }) =>
    gpu.packages === 'volume'
      ? [{ command: ['modal', 'volume', 'ls', gpu.volume, '/', '--json'] }]
      : gpu.models.map((model) => ({
          command: ['curl', '--fail', `<OCTET_BUCKET>/${pointerOf(model)}`],
          condition: 'signed',
        })),
  async run(world) {
    const { gpu } = world.config
    const absent = gpu.packages === 'volume' ? await absentOnVolume(world) : await absentInBucket(gpu.models, bucket()!)
    if (absent.length > 0) throw new Error(`no package of ${absent.join(', ')}`)
  },
  otherwise:
    'Upload each with `npm run weights -- --variant NAME --tier TIER` and --volume or --bucket, according to gpu.packages in infra/config.json.',
})

const split = (served: string) => served.split(':') as [model: string, tier: 'fp8']
const pointerOf = (served: string) =>
  pointerKey({ model: split(served)[0], tier: split(served)[1], target: 'cuda-fp8' })

async function absentOnVolume({ config: { gpu }, exec }: World): Promise<string[]> {
  const entries = JSON.parse(await exec(['modal', 'volume', 'ls', gpu.volume, '/', '--json'])) as Record<
    string,
    string
  >[]
  const names = new Set(
    entries.flatMap((entry) => Object.values(entry)).map((value) => String(value).replace(/^\/|\/$/g, '')),
  )
  return gpu.models.filter((served) => !names.has(split(served).join('-')))
}

async function absentInBucket(
  models: readonly string[],
  { OCTET_BUCKET: url, ...keys }: BucketSecrets,
): Promise<string[]> {
  const bucket = openBucket({ url, accessKeyId: keys.OCTET_BUCKET_KEY_ID, secretAccessKey: keys.OCTET_BUCKET_SECRET })
  const absent: string[] = []
  for (const served of models) {
    await bucket.read(pointerOf(served), POINTER_BYTES).catch((error: { missing?: boolean }) => {
      if (!error.missing) throw error
      absent.push(served)
    })
  }
  return absent
}

export const gpuSecret: Step = {
  id: 'gpu-secret',
  what: "Environment of the GPU function: the edge's public key, and access to packages",
  commands: ({ gpu }, { gpuSecrets }) => [
    { command: ['modal', 'secret', 'create', gpu.secret, '--force', '--from-json', gpuSecrets] },
  ],
  async run({ config, state, exec }) {
    for (const { command } of this.commands(config, state)) await exec(command)
  },
  otherwise: 'See `modal secret list`; the name is gpu.secret in infra/config.json.',
}

const serverOf = ({ gpu }: DeployConfig) => `${gpu.app}/${gpu.server}`

export const gpuFunction: Step = {
  id: 'gpu-function',
  what: 'GPU function (the first build of its image takes minutes)',
  commands: (config) => [
    { command: ['modal', 'deploy', 'infra/modal_app.py'] },
    { command: ['modal', 'server', 'info', serverOf(config), '--json'] },
  ],
  async run({ config, state, exec, say }) {
    const [deploy, info] = this.commands(config, state)
    await exec(deploy!.command)
    const { server_url: url } = JSON.parse(await exec(info!.command)) as { server_url?: string }
    if (!url) throw new Error('modal server info returned no server_url')
    state.gpuUrl = url.replace(/\/$/, '')
    say(`   ${state.gpuUrl}`)
  },
  otherwise: `The previous version is still served (\`modal app rollback\` restores earlier ones); ${TIMEOUT_NOTE}.`,
}
