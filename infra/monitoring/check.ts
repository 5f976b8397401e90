// `npm run alerts`: checks the alert rules, their tests and the queries of the dashboard with promtool (Debian: prometheus).
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import dashboard from './dashboard.json' with { type: 'json' }

/** The queries of the dashboard, with an interval in place of Grafana's variable. */
export const dashboardQueries = (): string[] =>
  dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr.replaceAll('$__rate_interval', '5m')))

function checkAll(): void {
  const directory = mkdtempSync(path.join(tmpdir(), 'octet-alerts-'))
  const promtool = (...given: string[]) =>
    execFileSync('promtool', given, { cwd: import.meta.dirname, stdio: 'inherit' })
  try {
    const rules = dashboardQueries().map((expr, i) => ({ record: `dashboard:query${i}`, expr }))
    const file = path.join(directory, 'dashboard.yml')
    // JSON is valid YAML.
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }))
    promtool('check', 'rules', 'alerts.yml', file)
    promtool('test', 'rules', 'alerts.test.yml')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      console.error('promtool is missing: apt-get install prometheus')
    process.exitCode = 1
  } finally {
    rmSync(directory, { recursive: true })
  }
}

if (import.meta.main) checkAll()
