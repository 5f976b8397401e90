// `npm run alerts`: checks the alert rules, their tests and the queries of the dashboard with promtool (Debian: prometheus).
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { endWithThis } from '../command/child-process.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { makeScratch } from '../command/scratch.ts'
import dashboard from './dashboard.json' with { type: 'json' }

/** The queries of the dashboard, with an interval in place of Grafana's variable. */
export const listDashboardQueries = (): string[] =>
  dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr.replaceAll('$__rate_interval', '5m')))

async function checkAll(): Promise<void> {
  await using scratch = makeScratch('octet-alerts-')
  const rules = listDashboardQueries().map((expr, i) => ({ record: `dashboard:query${i}`, expr }))
  const file = path.join(scratch.directory, 'dashboard.yml')
  // JSON is valid YAML.
  writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }))
  await runPromtool('check', 'rules', 'alerts.yml', file)
  await runPromtool('test', 'rules', 'alerts.test.yml')
}

/** Throws if the check fails. */
async function runPromtool(...args: string[]): Promise<void> {
  const child = endWithThis(spawn('promtool', args, { cwd: import.meta.dirname, stdio: 'inherit' }))
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`promtool ${args.join(' ')} ended with ${code}`)
}

if (import.meta.main) {
  endOnSignals()
  await checkAll().catch((error: NodeJS.ErrnoException) => {
    console.error(error.code === 'ENOENT' ? 'promtool is missing: apt-get install prometheus' : error.message)
    process.exitCode = 1
  })
}
