// `npm run keys -- …`: API keys for the operator, over the worker's own HTTP. The same command serves a local and a deployed worker.
import { Command, Option } from 'commander'
import { createSecrets, formatSecrets } from './secrets.ts'

type Target = { url: string; token: string }
type Key = { id: string; label: string; created: number; revoked: number | null }

/** Calls /v1/keys as the operator. Errors carry what the worker says. */
async function call({ url, token }: Target, method: string, path: string, body?: unknown): Promise<unknown> {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const init = body === undefined ? { method, headers } : { method, headers, body: JSON.stringify(body) }
  const response = await fetch(new URL(`/v1/keys${path}`, url), init).catch((cause) => {
    throw new Error(`no worker answers at ${url}; start it with "npx wrangler dev", or name it with --url`, { cause })
  })
  if (response.status === 204) return null
  const reply = (await response.json().catch(() => ({}))) as { detail?: string }
  if (!response.ok) throw new Error(reply.detail ?? `${url} answers ${response.status}`)
  return reply
}

/** Creates a key and returns it: this is the only time that its text is known. */
export async function createKey(target: Target, account: string, label = ''): Promise<{ id: string; key: string }> {
  return (await call(target, 'POST', '', { account, label })) as { id: string; key: string }
}

export async function listKeys(target: Target, account: string): Promise<Key[]> {
  return ((await call(target, 'GET', `?account=${encodeURIComponent(account)}`)) as { data: Key[] }).data
}

/** Ends a key at once and for good. */
export async function revokeKey(target: Target, account: string, id: string): Promise<void> {
  await call(target, 'DELETE', `/${encodeURIComponent(id)}?account=${encodeURIComponent(account)}`)
}

const day = (milliseconds: number) => new Date(milliseconds).toISOString().slice(0, 10)
const row = ({ id, label, created, revoked }: Key) =>
  `${id}  made ${day(created)}  ${revoked === null ? 'active' : `revoked ${day(revoked)}`}  ${label}`

function program(): Command {
  const keys = new Command('keys').description('API keys of an Octet deployment')
  const target = (command: Command) =>
    command
      .requiredOption('--account <name>', 'the account that the key belongs to')
      .addOption(new Option('--url <address>', 'the worker').env('OCTET_URL').default('http://127.0.0.1:8787'))
      .addOption(new Option('--token <token>', 'its operator token').env('OCTET_ADMIN_TOKEN').makeOptionMandatory())

  target(
    keys.command('create').description('make a key and show it, once').option('--label <text>', 'what it is for', ''),
  ).action(async ({ account, label, ...worker }) => {
    const { id, key } = await createKey(worker, account, label)
    console.error(`Key ${id} of ${account}. It is shown only now:`)
    console.log(key)
  })
  target(keys.command('list').description('show the keys of an account')).action(async ({ account, ...worker }) => {
    const rows = (await listKeys(worker, account)).map(row)
    console.log(rows.length > 0 ? rows.join('\n') : `${account} has no keys.`)
  })
  target(keys.command('revoke <id>').description('end a key at once')).action(async (id, { account, ...worker }) => {
    await revokeKey(worker, account, id)
    console.error(`Key ${id} of ${account} is revoked.`)
  })
  keys
    .command('secrets')
    .description('print fresh secrets for a new deployment: npm run --silent keys -- secrets > .dev.vars')
    .action(async () => {
      const { secrets, gpuPublicKey } = await createSecrets()
      console.log(formatSecrets(secrets, gpuPublicKey))
    })
  return keys
}

if (import.meta.main) {
  await program()
    .parseAsync()
    .catch((error: Error) => {
      console.error(`keys: ${error.message}`)
      process.exitCode = 1
    })
}
