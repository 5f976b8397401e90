// The steps of a deployment on Modal, with Modal's command: the secret and the GPU function.
import type { DeployConfig } from '../config.ts'
import { type Step, streamOutput } from './plan.ts'

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

export const gpuSecret: Step = {
  id: 'gpu-secret',
  what: "Environment of the GPU function: the edge's public key, and access to packages",
  commands: ({ gpu }, { gpuSecrets }) => [
    { command: ['modal', 'secret', 'create', gpu.secret, '--force', '--from-json', gpuSecrets] },
  ],
  async run({ config, state, exec }) {
    for (const { command } of this.commands(config, state)) await exec(command)
  },
  otherwise: 'See `modal secret list`; the name is gpu.secret of the configuration.',
}

const serverOf = ({ gpu }: DeployConfig) => `${gpu.app}/${gpu.server}`

export const gpuFunction: Step = {
  id: 'gpu-function',
  what: 'GPU function (the first build of its image takes minutes)',
  commands: (config) => [
    { command: ['modal', 'deploy', 'infra/modal_app.py'] },
    { command: ['modal', 'server', 'info', serverOf(config), '--json'] },
  ],
  async run(world) {
    const { config, configFile, state, exec, say } = world
    const [deploy, info] = this.commands(config, state)
    await exec(deploy!.command, streamOutput(world, { OCTET_CONFIG: configFile }))
    const { server_url: url } = JSON.parse(await exec(info!.command)) as { server_url?: string }
    if (!url) throw new Error('modal server info returned no server_url')
    state.gpuUrl = url.replace(/\/$/, '')
    say(`   ${state.gpuUrl}`)
  },
  otherwise: `The previous version is still served (\`modal app rollback\` restores earlier ones); ${TIMEOUT_NOTE}.`,
}
