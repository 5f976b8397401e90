// `npm run deploy`: deploys to Cloudflare and Modal, idempotently; `destroy` removes the deployment.
import path from 'node:path'
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { Argument, Command } from 'commander'
import { readDeployConfig } from '../config.ts'
import { deploySteps } from './deploy-steps.ts'
import { destroySteps } from './destroy.ts'
import { exec } from './exec.ts'
import { planText, runPlan, type State, UNKNOWN, type World } from './plan.ts'
import { ROTATIONS, type Rotation, rotated } from './rotate.ts'
import { readSecretsFile, SECRETS_FILE, writePrivate } from './secrets-file.ts'

/** Prompts at the terminal, without echo for a secret. */
async function ask(question: string, { secret = false } = {}): Promise<string> {
  if (!process.stdin.isTTY)
    throw new Error(`${question} is needed, and there is no terminal to ask at: set it in the environment`)
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

async function worldOf(state: Partial<State> = {}): Promise<World> {
  return { config: await readDeployConfig(), state: { ...UNKNOWN, ...state }, exec, ask, say: console.log }
}

type Flags = { dryRun?: boolean; gpuUrl?: string; newSecrets?: boolean; secrets: string; data?: boolean; yes?: string }

const program = new Command('deploy')
  .description('Deploys to Cloudflare and Modal; run again it brings up what is missing or has changed.')
  .option('--dry-run', 'print the steps and their commands, and do nothing')
  .option(
    '--gpu-url <url>',
    'a GPU function that runs elsewhere, in place of Modal (GPU_PROXY_HEADERS for its front door)',
  )
  .option('--secrets <file>', 'where the secrets are kept', SECRETS_FILE)
  .option('--new-secrets', 'make secrets although the deployed worker has some: every API key ends')
  .action(async ({ dryRun, gpuUrl, newSecrets, secrets }: Flags) => {
    const world = await worldOf(gpuUrl ? { gpuUrl: gpuUrl.replace(/\/$/, '') } : {})
    const steps = deploySteps({ file: secrets, fresh: newSecrets ?? false, onModal: !gpuUrl, env: process.env })
    if (dryRun) return console.log(planText(steps, world.config))
    await runPlan(steps, world)
    console.log(
      `\n${world.state.workerUrl} serves. A key: npm run keys -- create --account NAME --url ${world.state.workerUrl}`,
    )
    console.log(`with OCTET_ADMIN_TOKEN of ${path.relative(process.cwd(), secrets)}`)
  })

program
  .command('destroy')
  .description('takes the deployment down')
  .option('--data', 'the database, the bucket of results and the volume as well')
  .option('--yes <name>', "the worker's name, in place of typing it")
  .action(async ({ data = false, yes }: Flags) => {
    const { dryRun, gpuUrl } = program.opts<Flags>()
    const world = await worldOf()
    const steps = destroySteps({ data, onModal: !gpuUrl })
    console.log(planText(steps, world.config))
    if (dryRun) return
    const { name } = world.config.worker
    const typed = yes ?? (await ask(`API keys, balances and jobs cannot be brought back. Type ${name} to go on`))
    if (typed !== name) throw new Error(`"${typed}" is not ${name}: nothing was done`)
    await runPlan(steps, world)
  })

program
  .command('rotate')
  .description('make a secret anew; the next deploy carries it out')
  .addArgument(new Argument('<which>', 'one of them').choices(Object.keys(ROTATIONS)))
  .action(async (which: Rotation) => {
    const { secrets: file } = program.opts<Flags>()
    const before = await readSecretsFile(file)
    if (!before) throw new Error(`there is no ${file}: nothing was deployed from here`)
    await writePrivate(file, await rotated(before, which))
    console.log(`${ROTATIONS[which]}.\nNow: npm run deploy`)
  })

await program.parseAsync().catch((error: Error) => {
  console.error(`deploy: ${error.message}`)
  process.exitCode = 1
})
