// `npm run deploy`: deploys to Cloudflare and Modal, idempotently; `destroy` removes the deployment.
import { lookup } from 'node:dns/promises'
import path from 'node:path'
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { Argument, Command, InvalidArgumentError } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { prepareCommand } from '../command/npm.ts'
import { printError } from '../command/print.ts'
import { CONFIG_FILE, readDeployConfig } from '../config.ts'
import { deploySteps } from './deploy-steps.ts'
import { destroySteps } from './destroy.ts'
import { exec } from './exec.ts'
import { planText, runPlan, type State, UNKNOWN, type World } from './plan.ts'
import { ROTATIONS, type Rotation, rotateDeployed } from './rotate.ts'
import { checkEnvironment, readSecretsFile, secretsFileOf, writePrivate } from './secrets-file.ts'
import { workerConfigOf } from './worker-config.ts'

/** Prompts at the terminal, without echo for a secret. */
async function ask(question: string, { secret = false } = {}): Promise<string> {
  if (!process.stdin.isTTY)
    throw new Error(`${question} is required, and there is no terminal for a prompt: set it in the environment`)
  const hidden = new Writable({ write: (_chunk, _encoding, done) => done() })
  if (secret) process.stdout.write(`${question}: `)
  const prompt = createInterface({ input: process.stdin, output: secret ? hidden : process.stdout, terminal: true })
  try {
    return (await prompt.question(secret ? '' : `${question}: `)).trim()
  } finally {
    prompt.close()
    if (secret) process.stdout.write('\n')
  }
}

type Flags = {
  config: string
  dryRun?: boolean
  gpuUrl?: string
  newSecrets?: boolean
  secrets?: string
  data?: boolean
  yes?: string
}

async function worldOf({ config: file }: Flags, state: Partial<State> = {}): Promise<World> {
  const configFile = path.resolve(file)
  const config = await readDeployConfig(configFile)
  return { config, configFile, state: { ...UNKNOWN, ...state }, exec, ask, say: console.log }
}

function parseAddress(text: string): string {
  const { protocol } = URL.canParse(text) ? new URL(text) : { protocol: '' }
  if (/^https?:$/.test(protocol)) return text.replace(/\/$/, '')
  throw new InvalidArgumentError('It must be an address that starts with https:// or http://.')
}

/** Throws early for invalid options that only a later step would report. */
async function checkInputs({ config }: World, gpuUrl = 'https://gpu.invalid'): Promise<void> {
  await workerConfigOf(config, gpuUrl)
  checkEnvironment(process.env)
  if (gpuUrl.endsWith('.invalid')) return
  const { hostname } = new URL(gpuUrl)
  await lookup(hostname.replace(/^\[|\]$/g, '')).catch((cause: Error) => {
    throw new Error(`--gpu-url ${gpuUrl}: the host ${hostname} is unknown (${cause.message})`)
  })
}

endOnSignals()

const program = new Command('deploy')
  .description('Deploys to Cloudflare and Modal. Repeated runs apply only what is missing or has changed.')
  .option('--dry-run', 'only print the steps and their commands')
  .option('--config <file>', 'the configuration of the deployment', CONFIG_FILE)
  .option(
    '--gpu-url <url>',
    'a GPU function elsewhere, instead of Modal (with GPU_PROXY_HEADERS for its host)',
    parseAddress,
  )
  .option('--secrets <file>', 'file of the secrets; .octet/deploy/WORKER/secrets.json by default')
  .option('--new-secrets', 'create new secrets although the deployed worker has some, which invalidates every API key')
  .action(async (flags: Flags) => {
    const { dryRun, gpuUrl, newSecrets } = flags
    const world = await worldOf(flags, gpuUrl ? { gpuUrl } : {})
    await checkInputs(world, gpuUrl)
    const secrets = flags.secrets ?? secretsFileOf(world.config.worker.name)
    const steps = deploySteps({ file: secrets, fresh: newSecrets ?? false, onModal: !gpuUrl, env: process.env })
    if (dryRun) return console.log(planText(steps, world.config))
    await runPlan(steps, world)
    console.log(
      `\n${world.state.workerUrl} is ready. Create an API key: npm run keys -- create --account NAME --url ${world.state.workerUrl}`,
    )
    console.log(`with OCTET_ADMIN_TOKEN from ${path.relative(process.cwd(), secrets)}`)
  })

program
  .command('destroy')
  .description('remove the deployment')
  .option('--data', 'also remove the database, the bucket of results and the volume')
  .option('--yes <name>', "the worker's name, as confirmation without a prompt")
  .action(async ({ data = false, yes }: Flags) => {
    const flags = program.opts<Flags>()
    const { dryRun, gpuUrl } = flags
    const world = await worldOf(flags)
    const steps = destroySteps({ data, onModal: !gpuUrl })
    console.log(planText(steps, world.config))
    if (dryRun) return
    const { name } = world.config.worker
    const typed = yes ?? (await ask(`API keys, balances and jobs cannot be restored. Type ${name} to continue`))
    if (typed !== name) throw new Error(`"${typed}" is not ${name}: nothing has changed`)
    await runPlan(steps, world)
  })

program
  .command('rotate')
  .description('replace a secret; the next deploy applies it')
  .addArgument(new Argument('<which>', 'one of them').choices(Object.keys(ROTATIONS)))
  .action(async (which: Rotation) => {
    const flags = program.opts<Flags>()
    const file = flags.secrets ?? secretsFileOf((await worldOf(flags)).config.worker.name)
    const before = await readSecretsFile(file)
    if (!before) throw new Error(`${file} does not exist: nothing has been deployed from here`)
    await writePrivate(file, await rotateDeployed(before, which))
    console.log(`${ROTATIONS[which]}.\nNow: npm run deploy`)
  })

await prepareCommand(program)
  .parseAsync()
  .catch((error: Error) => {
    printError('deploy', error)
    process.exitCode = 1
  })
