// Stubs of Cloudflare's and Modal's commands, with the state of an account.
import { appendFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { writeFakePackage } from '../../infra/checkpoints/fake-package.ts'
import { CONFIG_FILE, readDeployConfig } from '../../infra/config.ts'
import { CommandFailed, type CommandLine, formatCommand, UNKNOWN, type World } from '../../infra/deploy/plan.ts'

export type Vendors = {
  world: World
  /** Every command that was run, as it is shown. */
  ran: string[]
  /** What exists: `queue octet-usage`, `volume /large-fp8` and so on. */
  things: Set<string>
  /** Commands that contain the key fail with the value. */
  fail: { containing: string; saying: string } | null
  said: string[]
}

const NOT_FOUND = 'not found [code: 10006]'

/** `gpuUrl` and `workerUrl` are the addresses that the commands print. */
export async function createVendors(
  where = { gpuUrl: 'https://gpu.test', workerUrl: 'https://octet.test' },
): Promise<Vendors> {
  const config = await readDeployConfig()
  const manifest = await fakeManifest()
  const things = new Set(config.gpu.models.map((served) => `volume /${served.replace(':', '-')}`))
  const vendors: Vendors = { ran: [], said: [], things, fail: null, world: null as never }

  const look = (thing: string) => {
    if (!things.has(thing)) throw new CommandFailed(`${thing}: ${NOT_FOUND}`)
    return '{}'
  }
  const make = (thing: string) => {
    if (things.has(thing)) throw new CommandFailed(`${thing} exists already`)
    things.add(thing)
    return ''
  }
  const note = (thing: string) => {
    things.add(thing)
    return ''
  }
  const forget = (thing: string) => {
    things.delete(thing)
    return ''
  }
  const drop = (thing: string) => {
    look(thing)
    things.delete(thing)
    return ''
  }

  async function wrangler(parts: string[], env: Record<string, string>): Promise<string> {
    const text = parts.join(' ')
    const name = parts.filter((part) => !part.startsWith('-')).at(-1)!
    if (text.startsWith('whoami')) return '{"email":"me@octet.test","accounts":[{"name":"Me","id":"1"}]}'
    if (text.startsWith('secret list')) return look('worker') && '[{"name":"KEY_PEPPER"}]'
    if (text.startsWith('queues info')) return look(`queue ${name}`)
    if (text.startsWith('queues create')) return make(`queue ${name}`)
    if (text.startsWith('queues delete')) return drop(`queue ${name}`)
    if (text.startsWith('r2 bucket info')) return look(`bucket ${name}`)
    if (text.startsWith('r2 bucket create')) return make(`bucket ${name}`)
    if (text.startsWith('r2 bucket delete')) return drop(`bucket ${name}`)
    if (text.startsWith('r2 bucket lifecycle set')) return look(`bucket ${parts[4]}`)
    if (text.startsWith('d1 info')) return look(`database ${name}`)
    if (text.startsWith('d1 create')) return make(`database ${name}`)
    if (text.startsWith('d1 delete')) return drop(`database ${name}`)
    if (text.startsWith('d1 migrations apply')) return look(`database ${parts[3]}`)
    if (text.startsWith('delete')) return drop('worker')
    if (text.startsWith('deploy')) {
      things.add('worker')
      await appendFile(
        env.WRANGLER_OUTPUT_FILE_PATH!,
        `${JSON.stringify({ type: 'deploy', targets: [where.workerUrl] })}\n`,
      )
      return ''
    }
    throw new Error(`no wrangler ${text}`)
  }

  function modal(parts: string[]): string {
    const text = parts.join(' ')
    if (text === 'token info') return ''
    if (text.startsWith('workspace proxy-tokens create')) {
      make('proxy token')
      return '{"Modal-Key":"wk-1","Modal-Secret":"ws-1"}'
    }
    if (text.startsWith('secret create')) return note('gpu secret')
    if (text.startsWith('volume ls'))
      return JSON.stringify(
        [...things].filter((thing) => thing.startsWith('volume /')).map((thing) => ({ Filename: thing.slice(8) })),
      )
    if (text.startsWith('volume get')) return manifest
    if (text.startsWith('deploy')) return note('gpu function')
    if (text.startsWith('server info')) return look('gpu function') && JSON.stringify({ server_url: where.gpuUrl })
    if (text.startsWith('app stop')) return drop('gpu function')
    if (text.startsWith('secret delete')) return forget('gpu secret')
    if (text.startsWith('volume delete')) return ''
    throw new Error(`no modal ${text}`)
  }

  vendors.world = {
    config,
    configFile: CONFIG_FILE,
    state: { ...UNKNOWN },
    async exec(command: CommandLine, { env = {} } = {}) {
      const text = formatCommand(command)
      vendors.ran.push(text)
      if (vendors.fail && text.includes(vendors.fail.containing)) throw new CommandFailed(vendors.fail.saying)
      const [program, ...parts] = command
      return program === 'wrangler' ? wrangler(parts, env) : modal(parts)
    },
    ask: async (question) => {
      throw new Error(`asked: ${question}`)
    },
    say: (line) => void vendors.said.push(line),
  }
  return vendors
}

/** The manifest of a package of a few bytes. */
async function fakeManifest(): Promise<string> {
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-vendors-'))
  try {
    return JSON.stringify((await writeFakePackage(scratch, {})).manifest)
  } finally {
    await rm(scratch, { recursive: true })
  }
}
