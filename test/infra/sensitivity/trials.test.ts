import { expect, test } from 'vitest'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { toFp8Int4, toFp8Rows } from '../../../infra/bench/precision/roundings.ts'
import { recordRuns } from '../../../infra/sensitivity/record.ts'
import { type RoundingOf, Trials } from '../../../infra/sensitivity/trials.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()

test('recorded runs are reproduced exactly with unrounded weights, but not with rounded ones', async () => {
  const directory = await compileTiny({ variant: 'tiny-small' })
  const recorded = await recordRuns(directory, [{ prompt: 'a red heart', seed: 3 }], 2)
  expect(recorded).toHaveLength(2)
  const [first, second] = recorded.map(({ inputs }) => inputs.latent!.data as Float32Array)
  expect(first).not.toEqual(second)

  const trials = await Trials.open(await openPackage(directory), scratch.directory, recorded)
  expect(await trials.errorWith(() => null)).toBe(0)
  const rounding =
    (pattern: RegExp, to: typeof toFp8Int4): RoundingOf =>
    (name) =>
      pattern.test(name) ? to : null
  const fc1 = /^joint_blocks\.0\.x_block\.mlp\.fc1\.weight$/
  const [fp8, int4, both] = [
    await trials.errorWith(rounding(fc1, toFp8Rows)),
    await trials.errorWith(rounding(fc1, toFp8Int4)),
    await trials.errorWith(rounding(/mlp\.fc[12]\.weight$/, toFp8Int4)),
  ]
  expect(fp8).toBeGreaterThan(0)
  expect(int4).toBeGreaterThan(fp8)
  expect(both).toBeGreaterThan(int4)
  expect(await trials.errorWith(() => null)).toBe(0)
})
