// `npm run keys -- …`: API keys, limits and credit, for the operator of a local or deployed worker.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { prepareCommand } from '../command/npm.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { print, printError } from '../command/print.ts'
import { tightenFile, tightenStandardOutput, writePrivateFile } from '../command/private-files.ts'
import { addWorkerOptions } from '../command/worker-options.ts'
import { exportAccount } from './account-export.ts'
import * as keys from './keys.ts'
import { createSecrets, formatSecrets, gpuPublicKeyOf, parseSecrets, rotateSecrets } from './secrets.ts'

const formatDay = (seconds: number) => new Date(seconds * 1000).toISOString().slice(0, 10)
const formatDollars = (microdollars: number) => `$${(microdollars / 1e6).toFixed(6)}`

function formatState({ revoked, expires }: keys.Key): string {
  if (revoked !== null) return `revoked ${formatDay(revoked)}`
  if (expires === null) return 'active'
  return expires * 1000 > Date.now() ? `until ${formatDay(expires)}` : `expired ${formatDay(expires)}`
}
function formatCreator({ created_by, creator_revoked }: keys.Key): string {
  if (created_by === null) return ''
  return creator_revoked ? ` by ${created_by} (revoked, or created by a revoked key)` : ` by ${created_by}`
}
const formatKey = (key: keys.Key) =>
  `${key.id}  created ${formatDay(key.created)}${formatCreator(key)}  ${formatState(key)}  ${key.scopes.join(',')}  ${key.label}`

const formatLimits = (limits: keys.Limits) =>
  Object.entries(limits)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ') || 'none'

const parseDollars = (text: string) => {
  if (/^-?\d{1,6}(\.\d{1,6})?$/.test(text)) return Math.round(Number(text) * 1e6)
  throw new InvalidArgumentError('It must be an amount of dollars with at most 6 decimals.')
}

/** Parses a limit. "none" remains text, because commander replaces null with an empty string. */
const parseLimit = (parse: (text: string) => number) => (text: string) => (text === 'none' ? text : parse(text))
const addLimitOptions = (command: Command) =>
  command
    .option('--rate <n>', 'requests per minute, or none', parseLimit(parseWholeNumber))
    .option('--concurrency <n>', 'concurrent jobs, or none', parseLimit(parseWholeNumber))
    .option('--daily <dollars>', 'maximum spend per day, or none', parseLimit(parseDollars))
    .option('--monthly <dollars>', 'maximum spend per month, or none', parseLimit(parseDollars))
    .option('--total <dollars>', 'maximum total spend, or none', parseLimit(parseDollars))

const LIMIT_NAMES = {
  rate: 'requests_per_minute',
  concurrency: 'concurrent_jobs',
  daily: 'daily_microdollars',
  monthly: 'monthly_microdollars',
  total: 'total_microdollars',
} as const
type LimitOptions = Partial<Record<keyof typeof LIMIT_NAMES, number | 'none'>>

/** The limits set by options, with the names of the API. */
function limitsOf(options: LimitOptions): Partial<keys.Limits> {
  const named = Object.entries(options).map(([option, value]) => [LIMIT_NAMES[option as keyof LimitOptions], value])
  return Object.fromEntries(named.map(([name, value]) => [name, value === 'none' ? null : value]))
}

const addAccountOptions = (command: Command) =>
  addWorkerOptions(command.requiredOption('--account <name>', 'the account'))

function printKey({ key, id }: { key: string; id: string }, account: string): void {
  console.error(`Key ${id} of ${account}. It is shown only once:`)
  console.log(key)
}

function addKeyCommands(program: Command): void {
  addLimitOptions(addAccountOptions(program.command('create').description('create a key and show it once')))
    .option('--label <text>', 'purpose of the key', '')
    .option('--scopes <list>', 'comma-separated, from generate, read, admin', 'generate,read')
    .option('--expires-in <seconds>', 'validity from now on', parseWholeNumber)
    .action(async ({ account, label, scopes, expiresIn, url, token, ...limits }) => {
      const options = { label, scopes: scopes.split(','), limits: limitsOf(limits), expires_in: expiresIn ?? null }
      printKey(await keys.createKey({ url, token }, account, options), account)
    })
  addAccountOptions(program.command('list').description('show the keys of an account')).action(
    async ({ account, ...worker }) => {
      const rows = (await keys.listKeys(worker, account)).map(formatKey)
      print(rows.length > 0 ? rows.join('\n') : `${account} has no keys.`)
    },
  )
  addAccountOptions(program.command('show <id>').description('show a key, its limits and its usage')).action(
    async (id, { account, ...worker }) => {
      const key = await keys.describeKey(worker, account, id)
      const { spent_microdollars, reserved_microdollars, open_jobs } = key.used
      print(`${formatKey(key)}\nlimits  ${formatLimits(key.limits)}`)
      print(
        `spent   ${formatDollars(spent_microdollars)}, reserved ${formatDollars(reserved_microdollars)} by ${open_jobs} jobs`,
      )
    },
  )
  addAccountOptions(program.command('rotate <id>').description('replace a key with a new one'))
    .option('--overlap <seconds>', 'remaining validity of the old key', parseWholeNumber, 24 * 3600)
    .action(async (id, { account, overlap, ...worker }) =>
      printKey(await keys.rotateKey(worker, account, id, overlap), account),
    )
  addAccountOptions(program.command('revoke <id>').description('revoke a key immediately')).action(
    async (id, { account, ...worker }) => {
      await keys.revokeKey(worker, account, id)
      console.error(`Key ${id} of ${account} is revoked.`)
    },
  )
}

function addAccountCommands(program: Command): void {
  addLimitOptions(
    addAccountOptions(program.command('account').description('show an account, and change it with options')),
  )
    .option('--prepaid', 'the balance must cover each job')
    .option('--postpaid', 'jobs need no balance')
    .option('--stripe-customer <id>', 'customer for reports of usage')
    .option('--retention-days <n>', 'days for which images are stored: 1, 7, 30, 90 or 365', parseWholeNumber)
    .option('--prompt-metadata', 'image files contain their prompts')
    .option('--no-prompt-metadata', 'files of later jobs contain no prompts')
    .action(
      async ({ account, url, token, prepaid, postpaid, stripeCustomer, retentionDays, promptMetadata, ...limits }) => {
        const change = {
          ...(retentionDays !== undefined && { retention_days: retentionDays }),
          ...(promptMetadata !== undefined && { prompt_metadata: promptMetadata }),
          ...((prepaid || postpaid) && { prepaid: Boolean(prepaid) }),
          ...(stripeCustomer && { stripe_customer: stripeCustomer }),
          ...(Object.keys(limitsOf(limits)).length > 0 && { limits: limitsOf(limits) }),
        }
        if (Object.keys(change).length > 0) await keys.configureAccount({ url, token }, account, change)
        printAccount(await keys.describeAccount({ url, token }, account))
      },
    )
  addAccountOptions(program.command('credit <id>').description('add credit, once per id, such as an invoice number'))
    .requiredOption('--amount <dollars>', 'amount of credit', parseDollars)
    .option('--note <text>', 'reason', '')
    .action(async (id, { account, amount, note, ...worker }) => {
      const { balance_microdollars } = await keys.addCredit(worker, account, id, amount, note)
      print(`${account} has a balance of ${formatDollars(balance_microdollars)}.`)
    })
}

function printAccount(account: keys.Account): void {
  const { captured_microdollars: captured, reserved_microdollars: reserved, open_jobs } = account
  print(`${account.account}  ${account.prepaid ? 'prepaid' : 'postpaid'}  ${account.stripe_customer ?? ''}`)
  print(`balance ${formatDollars(account.balance_microdollars)}, captured ${formatDollars(captured)}`)
  print(`reserved ${formatDollars(reserved)} by ${open_jobs} jobs\nlimits  ${formatLimits(account.limits)}`)
  print(`images  ${account.retention_days} days, ${account.prompt_metadata ? 'with' : 'without'} prompts in the files`)
  if (account.deletion) printDeletion(account.deletion)
}

async function generateSecrets(): Promise<string> {
  const { secrets, gpuPublicKey } = await createSecrets()
  return formatSecrets(secrets, gpuPublicKey)
}

async function rotateSecretsFile(file: string): Promise<string> {
  await tightenFile(file, console.error)
  const secrets = await rotateSecrets(parseSecrets(await readFile(file, 'utf8')))
  return formatSecrets(secrets, gpuPublicKeyOf(secrets))
}

function printDeletion({ state, step, continues, completed, jobs_deleted, ...sums }: keys.Deletion): void {
  const until =
    state === 'deleted' ? `on ${formatDay(completed!)}` : `at step "${step}", which continues ${formatDay(continues!)}`
  print(`${state} ${until}, ${jobs_deleted} jobs so far`)
  const { credited_microdollars: credited, captured_microdollars: captured } = sums
  if (credited !== undefined && captured !== undefined)
    print(
      `credited ${formatDollars(credited)}, captured ${formatDollars(captured)}, left ${formatDollars(credited - captured)}`,
    )
}

function addDataCommands(program: Command): void {
  addAccountOptions(program.command('export').description('export all data of an account as JSON Lines'))
    .requiredOption('--out <file>', 'output file')
    .option('--images <directory>', 'also download its images, one directory per job')
    .action(async ({ account, out, images, ...worker }) => {
      const exported = await exportAccount(worker, account, out, images)
      console.error(
        `Wrote ${exported.lines} lines to ${out}${images ? ` and ${exported.images} images to ${images}` : ''}.`,
      )
    })
  addAccountOptions(program.command('delete').description('permanently delete an account and all of its data'))
    .requiredOption('--confirm <name>', "the account's name, as confirmation")
    .action(async ({ account, confirm, ...worker }) => {
      if (confirm !== account) throw new Error(`--confirm was ${confirm}; it must be ${account}.`)
      printDeletion(await keys.deleteAccount(worker, account))
    })
}

const program = new Command('keys').description(
  'Manages the API keys, limits, credit and data of the accounts of an Octet deployment',
)
addKeyCommands(program)
addAccountCommands(program)
addDataCommands(program)
program
  .command('secrets')
  .description('generate secrets for a worker: npm run keys -- secrets --out .dev.vars')
  .option('--out <file>', 'write them to this file, readable by its owner only, instead of printing them')
  .option(
    '--rotate <file>',
    'use the secrets of this .dev.vars file, with a new pepper and receipt key as the first ones',
  )
  .action(async ({ rotate, out }: { rotate?: string; out?: string }) => {
    const text = rotate === undefined ? await generateSecrets() : await rotateSecretsFile(rotate)
    if (out === undefined) {
      tightenStandardOutput()
      return console.log(text)
    }
    const replaces = rotate !== undefined && path.resolve(rotate) === path.resolve(out)
    await writePrivateFile(out, text, { exclusive: !replaces }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
      throw new Error(`${out} exists; to replace its pepper and receipt key: secrets --rotate ${out} --out ${out}`)
    })
    print(`Wrote the secrets to ${out}, readable only by you. The last line is the GPU function's public key.`)
  })

await prepareCommand(program)
  .parseAsync()
  .catch((error: Error) => {
    printError('keys', error)
    process.exitCode = 1
  })
