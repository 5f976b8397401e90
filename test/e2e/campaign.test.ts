// The crash campaign in its short form; `npm run campaign -- --jobs 3000` is the long one.
import { randomInt } from 'node:crypto'
import { expect, test } from 'vitest'
import { runCampaign } from '../../infra/campaign/campaign.ts'

const JOBS = 150
const LIMIT_MS = 400_000

test(
  'whatever is killed, cut off or repeated: every job ends, is charged once, keeps its images and is told',
  async () => {
    const seed = randomInt(2 ** 32)
    const { counts, problems } = await runCampaign({ jobs: JOBS, seed })
    process.stdout.write(`crash campaign, seed ${seed}: ${JSON.stringify(counts)}\n`)
    expect({ seed, problems }).toEqual({ seed, problems: [] })
    expect(counts.succeeded).toBeGreaterThan(JOBS / 2)
  },
  LIMIT_MS,
)
