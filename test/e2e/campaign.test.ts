// The crash campaign in its short form; `npm run campaign -- --jobs 3000` is the long one.
import { randomInt } from 'node:crypto'
import { expect, test } from 'vitest'
import { LONGEST_OPEN_MS } from '../../edge/webhooks/endpoints/breaker.ts'
import { runCampaign } from '../../infra/campaign/campaign.ts'

const JOBS = 150
/** Includes the wait for an open circuit breaker. */
const LIMIT_MS = 400_000 + LONGEST_OPEN_MS

test(
  'with kills, disconnects, retries and resets, every job ends, is charged its reserved price exactly once, and has no stray GPU runs',
  async () => {
    const seed = randomInt(2 ** 32)
    const { counts, problems } = await runCampaign({ jobs: JOBS, seed })
    process.stdout.write(`crash campaign, seed ${seed}: ${JSON.stringify(counts)}\n`)
    expect({ seed, problems }).toEqual({ seed, problems: [] })
    expect(counts.succeeded).toBeGreaterThan(JOBS / 2)
    for (const what of ['deploys', 'ACCOUNT objects reset', 'JOB objects reset', 'attacks on reservations', 'GPU runs'])
      expect(counts[what], what).toBeGreaterThan(0)
  },
  LIMIT_MS,
)
