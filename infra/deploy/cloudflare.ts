// The steps of a deployment on Cloudflare, with wrangler: queues, bucket, database, secrets, worker.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { makeScratch } from '../command/scratch.ts'
import { type CommandLine, type Step, streamOutput, type World } from './plan.ts'
import { writeWorkerConfig } from './worker-config.ts'

const LIFECYCLE = 'infra/results-lifecycle.json'
const ABSENT = 'if the previous command finds none'

/** Runs `look`, or `make` if that fails. Throws the error of `make`. */
async function createIfAbsent({ exec }: World, look: CommandLine, make: CommandLine): Promise<void> {
  const there = await exec(look).then(
    () => true,
    () => false,
  )
  if (!there) await exec(make)
}

export const account: Step = {
  id: 'cloudflare-account',
  what: 'Cloudflare account',
  commands: () => [{ command: ['wrangler', 'whoami', '--json'] }],
  async run({ exec, say }) {
    const { email, accounts = [] } = JSON.parse(await exec(['wrangler', 'whoami', '--json'])) as {
      email?: string
      accounts?: { name: string; id: string }[]
    }
    say(`   ${email ?? 'an API token'}, ${accounts.map(({ name }) => name).join(', ')}`)
    if (accounts.length > 1 && !process.env.CLOUDFLARE_ACCOUNT_ID)
      throw new Error(
        `there are ${accounts.length} accounts: ${accounts.map(({ name, id }) => `${name} ${id}`).join(', ')}`,
      )
  },
  otherwise:
    'Log in with `npx wrangler login` (in CI set CLOUDFLARE_API_TOKEN); with several accounts, set CLOUDFLARE_ACCOUNT_ID. The account needs Workers Paid, for Queues and Durable Objects.',
}

export const queue: Step = {
  id: 'queue',
  what: 'The usage queue',
  commands: ({ worker: { queue: name } }) => [
    { command: ['wrangler', 'queues', 'info', name] },
    { command: ['wrangler', 'queues', 'create', name], condition: ABSENT },
  ],
  async run(world) {
    const [look, make] = this.commands(world.config, world.state)
    await createIfAbsent(world, look!.command, make!.command)
  },
  otherwise: 'Queues are part of Workers Paid; an API token needs the permission Queues: Edit.',
}

export const bucket: Step = {
  id: 'bucket',
  what: 'Bucket of results, with rules that delete expired images',
  commands: ({ worker: { results } }) => [
    { command: ['wrangler', 'r2', 'bucket', 'info', results] },
    { command: ['wrangler', 'r2', 'bucket', 'create', results], condition: ABSENT },
    { command: ['wrangler', 'r2', 'bucket', 'lifecycle', 'set', results, '--file', LIFECYCLE, '--force'] },
  ],
  async run(world) {
    const [look, make, rules] = this.commands(world.config, world.state)
    await createIfAbsent(world, look!.command, make!.command)
    await world.exec(rules!.command)
  },
  otherwise: 'R2 must be enabled once in the dashboard (R2, Overview); an API token needs Workers R2 Storage: Edit.',
}

export const database: Step = {
  id: 'database',
  what: 'Database, with the migrations of edge/migrations',
  commands: ({ worker: { database: name } }, { workerConfig }) => [
    { command: ['wrangler', 'd1', 'info', name, '--json'] },
    { command: ['wrangler', 'd1', 'create', name], condition: ABSENT },
    { command: ['wrangler', 'd1', 'migrations', 'apply', name, '--remote', '--config', workerConfig] },
  ],
  async run(world) {
    const [look, make, migrate] = this.commands(world.config, world.state)
    await createIfAbsent(world, look!.command, make!.command)
    await world.exec(migrate!.command, streamOutput(world))
  },
  otherwise: 'A failed migration has been rolled back: fix its file and run this again. An API token needs D1: Edit.',
}

export const worker: Step = {
  id: 'worker',
  what: 'The worker',
  commands: (_, { workerConfig, workerSecrets }) => [
    { command: ['wrangler', 'deploy', '--config', workerConfig, '--secrets-file', workerSecrets] },
  ],
  async run(world) {
    const { config, state, exec, say } = world
    await using scratch = makeScratch('octet-deploy-')
    await writeWorkerConfig(state.workerConfig, config, state.gpuUrl)
    const output = path.join(scratch.directory, 'wrangler.jsonl')
    const [deploy] = this.commands(config, state)
    await exec(deploy!.command, streamOutput(world, { WRANGLER_OUTPUT_FILE_PATH: output }))
    state.workerUrl = addressOf(await readFile(output, 'utf8'))
    say(`   ${state.workerUrl}`)
  },
  otherwise:
    'The previous version, if any, is still served. See the output of wrangler above, and `npm run check` for errors in the code.',
}

/** The worker's address, from wrangler's JSON lines. */
export function addressOf(lines: string): string {
  const entries = lines
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as { type: string; targets?: string[] })
  const target = entries.find(({ type }) => type === 'deploy')?.targets?.[0]
  if (!target) throw new Error('wrangler reported no address of the worker: enable workers.dev, or add a route')
  return target.startsWith('http') ? target.replace(/\/$/, '') : `https://${target}`
}
