// `npm run campaign:packages`: runs the package campaign and prints its outcome.
import { randomInt } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Command } from 'commander'
import { noise, writeFakePackage } from '../../checkpoints/fake-package.ts'
import { parseWholeNumber } from '../../command/whole-number.ts'
import { type PackageCampaignOptions, runPackageCampaign } from './campaign.ts'

const MEGABYTE = 1_000_000

/** Writes three packages of 4 MB that share half of their bytes, as tiers do. The disk budget holds two of them. */
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
    .description('Kills processes that download packages from a faulty bucket, then verifies their cache.')
    .option('--rounds <count>', 'number of processes, or of concurrent pairs', parseWholeNumber, 200)
    .option('--seed <number>', 'seed of all faults; random by default', parseWholeNumber, randomInt(2 ** 32))
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
