import { readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createMetrics } from '../../../gpu-fn/server/observability/metrics.ts'
import { listDashboardQueries } from '../../../infra/monitoring/check.ts'

const root = path.join(import.meta.dirname, '../../..')
const read = (file: string) => readFileSync(path.join(root, file), 'utf8')
const alerts = read('infra/monitoring/alerts.yml')

test('alerts and dashboard use existing metrics and labels of the GPU function', async () => {
  const metrics = createMetrics()
  metrics.watch({ countByClass: () => [] } as never, { status: 'ready' })
  const { body } = await metrics.text()
  const served = new Set([...body.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name))
  const used = [...`${alerts}\n${listDashboardQueries().join('\n')}`.matchAll(/\b(?:octet|process|nodejs)_[a-z0-9_]+/g)]
  const names = new Set(used.map(([name]) => name.replace(/_(bucket|sum|count)$/, '')))
  expect(names.size).toBeGreaterThan(10)
  expect([...names].filter((name) => !served.has(name))).toEqual([])
})

test('the runbook documents for each alert whether it pages someone', () => {
  const rules = [...alerts.matchAll(/- alert: (\w+)[\s\S]*?severity: (\w+)/g)].map(([, name, severity]) => [
    name,
    severity === 'page' ? 'yes' : 'no',
  ])
  const rows = [...read('docs/runbook.md').matchAll(/^\| `(Octet\w+)` \| (yes|no) \|/gm)].map(([, name, wakes]) => [
    name,
    wakes,
  ])
  expect(rows.toSorted()).toEqual(rules.toSorted())
})

test('the runbook has the columns of the data points in their order', () => {
  const text = read('docs/runbook.md')
  const [, point = ''] = /export const POINT = \{([\s\S]*?)\} as const/.exec(read('edge/jobs/observe.ts')) ?? []
  const names = [...point.matchAll(/'(\w+)'/g)].map(([, name]) => name)
  expect(names).toHaveLength(19)
  expect(['endpoint', 'device', 'images', 'wall_seconds', 'load', 'total'].map((name) => names.indexOf(name))).toEqual([
    5, 6, 7, 12, 14, 18,
  ])
  expect(text).toContain('`blob1` to `blob7`')
  expect(text).toContain('`double1` to `double12`')
})
