import { expect, test } from 'vitest'
import { runPackageCampaign } from '../../../../infra/campaign/packages/campaign.ts'
import { campaignPackages } from '../../../../infra/campaign/packages/main.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()

test('no incomplete or corrupt package ever opens', async () => {
  const { counts, problems } = await runPackageCampaign({
    ...{ rounds: 25, seed: 6 },
    ...(await campaignPackages(scratch.directory)),
  })
  expect(problems).toEqual([])
  expect(counts.killed).toBeGreaterThan(0)
  expect(counts['packages verified']).toBeGreaterThan(0)
})
