// `npm run campaign:packages`: the package campaign at any length, and what came of it.
import { randomInt } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Command } from 'commander'
import { noise, writeFakePackage } from '../../checkpoints/fake-package.ts'
import { wholeNumber } from '../../command/whole-number.ts'
import { type PackageCampaignOptions, runPackageCampaign } from './campaign.ts'

const MEGABYTE = 1_000_000

/** Three packages of 4 MB that share half, as tiers do, and a budget for two. Written below `directory`. */
export async function campaignPackages(
  directory: string,
): Promise<Pick<PackageCampaignOptions, 'packages' | 'budgetBytes'>> {
  const shared = { 'vae.bin': noise(MEGABYTE), 'tokenizer/vocab.json': noise(1000), 'clip.bin': noise(MEGABYTE) }
  const packages: PackageCampaignOptions['packages'] = []
  for (const tier of ['fp8', 'fp8-lite', 'fp16'] as const) {
    const at = path.join(directory, tier)
    const { manifest } = await writeFakePackage(at, { ...shared, 'transformer.bin': noise(2 * MEGABYTE) }, { tier })
    packages.push({ name: { model: manifest.model, tier, target: manifest.target }, directory: at })
  }
  return { packages, budgetBytes: 7 * MEGABYTE }
}

async function main(): Promise<void> {
  const { rounds, seed } = new Command('campaign:packages')
    .description('Processes that fetch packages from a bucket that stalls, cuts off and lies, killed at any moment.')
    .option('--rounds <count>', 'processes, or pairs of them', wholeNumber, 200)
    .option('--seed <number>', 'chooses every fault; a new one unless given', wholeNumber, randomInt(2 ** 32))
    .parse()
    .opts<{ rounds: number; seed: number }>()
  console.log(`seed ${seed}`)
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-packages-'))
  try {
    const { counts, problems } = await runPackageCampaign({ rounds, seed, ...(await campaignPackages(scratch)) })
    for (const [what, count] of Object.entries(counts)) console.log(`${String(count).padStart(10)}  ${what}`)
    console.log(`${problems.length} problems`)
    for (const problem of problems.slice(0, 50)) console.log(problem)
    process.exitCode = problems.length === 0 ? 0 : 1
  } finally {
    await rm(scratch, { recursive: true })
  }
}

if (import.meta.main) await main()
