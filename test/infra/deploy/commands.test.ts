// Runs every command of the plans with the vendors' own programs. Without an account, they must fail because of it and not because of their
// arguments.
import { execFile, execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { afterAll, expect, test } from 'vitest'
import { readDeployConfig } from '../../../infra/config.ts'
import { deploySteps } from '../../../infra/deploy/deploy-steps.ts'
import { destroySteps } from '../../../infra/deploy/destroy.ts'
import { type CommandLine, formatCommand } from '../../../infra/deploy/plan.ts'
import { writeWorkerConfig } from '../../../infra/deploy/worker-config.ts'
import { findModalCommand, findModalPython } from '../../../infra/modal/python.ts'

const ROOT = path.join(import.meta.dirname, '../../..')
const home = mkdtempSync(path.join(tmpdir(), 'octet-home-'))
const secretsFile = path.join(home, 'secrets.json')
writeFileSync(secretsFile, '{"KEY_PEPPER":"1:pepper"}')
afterAll(() => rmSync(home, { recursive: true }))

const config = await readDeployConfig()
const state = {
  gpuUrl: 'https://gpu.test',
  workerUrl: 'https://octet.test',
  workerSecrets: secretsFile,
  gpuSecrets: secretsFile,
  workerConfig: path.join(home, 'wrangler.json'),
}
await writeWorkerConfig(state.workerConfig, config, state.gpuUrl)
const plans = [
  ...deploySteps({ file: secretsFile, onModal: true, env: {} }),
  ...destroySteps({ data: true, onModal: true }),
]
/** Further commands of docs/runbook.md and `npm run status`. */
const others: CommandLine[] = [
  ['wrangler', 'deployments', 'list', '--name', 'octet', '--json'],
  ['wrangler', 'rollback', '--name', 'octet', '--yes'],
  ['wrangler', 'd1', 'time-travel', 'info', 'octet'],
  ['wrangler', 'd1', 'export', 'octet', '--remote', '--output', path.join(home, 'octet.sql')],
  ['modal', 'billing', 'report', '--for', 'today', '--json'],
  ['modal', 'app', 'rollback', 'octet-gpu'],
  ['modal', 'app', 'rollover', 'octet-gpu'],
  ['modal', 'workspace', 'proxy-tokens', 'list'],
  ['modal', 'volume', 'list', '--json'],
  ['modal', 'volume', 'put', '--force', 'octet-weights', secretsFile, '/a/manifest.json'],
]
const commands = [...others, ...plans.flatMap((step) => step.commands(config, state)).map(({ command }) => command)]
/** One command of each kind; names do not distinguish commands. */
const kinds = new Map(
  commands.map((command) => [command.filter((part) => !part.startsWith('octet-')).join(' '), command]),
)
const listKinds = (program: string) => [...kinds.values()].filter(([name]) => name === program)

async function outputOf(program: string, parts: readonly string[]): Promise<string> {
  const env = {
    PATH: process.env.PATH,
    HOME: home,
    CI: '1',
    WRANGLER_SEND_METRICS: 'false',
    MODAL_CONFIG_PATH: path.join(home, 'modal.toml'),
  }
  return promisify(execFile)(program, parts, { cwd: ROOT, env, timeout: 60_000 }).then(
    ({ stdout }) => stdout,
    ({ stdout, stderr }) => `${stdout}${stderr}`,
  )
}

test.each(listKinds('wrangler').map((command) => [formatCommand(command).slice(0, 70), command] as const))(
  'wrangler takes: %s',
  async (_, [, ...parts]: CommandLine) => {
    const output = await outputOf(process.execPath, ['node_modules/wrangler/bin/wrangler.js', ...parts])
    expect(output).not.toMatch(/Unknown argument|Not enough|Missing required argument/i)
    expect(output).toMatch(/CLOUDFLARE_API_TOKEN|not authenticated|"loggedIn": ?false/i)
  },
)

test
  .skipIf(!findModalPython())
  .each(listKinds('modal').map((command) => [formatCommand(command).slice(0, 70), command] as const))(
  'modal takes: %s',
  async (_, [, ...parts]: CommandLine) => {
    const [program, ...before] = findModalCommand()
    const output = await outputOf(program!, [...before, ...parts])
    expect(output).not.toMatch(/No such option|Missing argument|unexpected extra argument|No such command/i)
    expect(output).toMatch(/Token missing/)
  },
)

/** The compressed bundle without its assets. A larger one starts more slowly. */
const MAX_BUNDLE_BYTES = 200_000

test('the bundle for deployment has at most 200 kB, with the catalog of infra/config.json instead of the local one', () => {
  const deploy = commands.find(([program, verb]) => program === 'wrangler' && verb === 'deploy')!
  const out = path.join(home, 'out')
  const text = execFileSync(
    process.execPath,
    ['node_modules/wrangler/bin/wrangler.js', ...deploy.slice(1), '--dry-run', '--outdir', out],
    { cwd: ROOT, encoding: 'utf8', env: { ...process.env, WRANGLER_SEND_METRICS: 'false', CI: '1' } },
  )
  expect(text).toContain('--dry-run: exiting now')
  expect(text.match(/OCTET_CATALOG/g)).toHaveLength(1)
  expect(gzipSync(readFileSync(path.join(out, 'index.js'))).length).toBeLessThanOrEqual(MAX_BUNDLE_BYTES)
})
