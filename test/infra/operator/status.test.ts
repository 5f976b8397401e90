import { expect, test } from 'vitest'
import { readDeployConfig } from '../../../infra/config.ts'
import { renderStatusScreen, type Sources } from '../../../infra/operator/status/status.ts'

const STATUS = {
  endpoints: [
    {
      name: 'default',
      down: false,
      state: 'cold',
      ready_in_seconds: 41,
      start_seconds: 41,
      starts_seen: 3,
      spent_today_seconds: 160,
      budget_seconds: 3600,
    },
  ],
  today: {
    jobs: 12,
    captured: 10,
    microdollars: 25_000,
    images: 10,
    cold_starts: 2,
    gpu_seconds: 90,
    gpu_dollars: 0.0488,
  },
  gpu_budget: { daily_seconds: 36_000, spent_seconds: 5400, reserved_seconds: 900 },
}
const server = {
  current: async () => ({ containers: 2, backlog: 1 }),
  since: async () => ({ requests: 20, failed: 1, started: 3, broken: 0 }),
  log: async () => [],
  scale: async () => ({}),
  close() {},
}

const createSources = async (change: Partial<Sources> = {}): Promise<Sources> => ({
  config: await readDeployConfig(),
  exec: async ([program]) =>
    program === 'wrangler'
      ? JSON.stringify([
          { created_on: '2026-11-25T10:00:00Z', versions: [{ version_id: 'old' }] },
          { created_on: '2026-11-26T10:00:00Z', versions: [{ version_id: 'new' }] },
        ])
      : JSON.stringify([
          { Object: 'octet-gpu', Cost: '1.25' },
          { Object: 'another', Cost: '9' },
        ]),
  worker: async () => STATUS,
  openModal: async () => server,
  ...change,
})

test('shows the deployment, the warm GPUs and the cost of the day', async () => {
  expect(await renderStatusScreen(await createSources(), true)).toEqual([
    'Worker octet',
    '  version new since 2026-11-26T10:00:00Z',
    'GPUs, as seen by the worker',
    '  default: cold, ready in 41 s; a start takes 41 s (from 3 starts); warming 160 s of 3600 s today',
    '  since midnight: 12 jobs settled, 10 of them charged $0.03',
    '  10 jobs measured, 2 of them cold; GPU 90 s, about $0.05 without idle time',
    '  GPU budget of today: 5400 s of 36000 s spent, 900 s reserved by running jobs',
    'Modal app octet-gpu',
    '  2 containers running, 1 requests waiting',
    '  since midnight: 3 containers started, 0 failed; 20 requests, 1 failed',
    "Modal's bill",
    '  $1.25 for octet-gpu since midnight',
  ])
})

test('an unavailable part does not hide the others', async () => {
  const broken = await createSources({
    openModal: async () => {
      throw new Error('Token missing\nat …')
    },
  })
  const screen = await renderStatusScreen(broken, true)
  expect(screen).toContain('  unknown: Token missing')
  expect(screen).toContain('  $1.25 for octet-gpu since midnight')
})

test('with --no-modal, no request to Modal is made', async () => {
  expect((await renderStatusScreen(await createSources(), false)).join('\n')).not.toContain('Modal')
})
