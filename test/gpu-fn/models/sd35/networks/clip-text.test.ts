import { describe, expect, it } from 'vitest'
import { clipIds, computeRelativeError, sampleRows } from '../../../../support/checkpoints/tensors.ts'
import { CASES, goldenOf, listSubjects, shapeOf, TOLERANCE, useNetworks } from '../../../../support/checkpoints/tiny.ts'

const PADDING = { clip_l: 999, clip_g: 0 }

describe.each(listSubjects('clip_l'))('CLIP of $variant, $layout, $tier', (subject) => {
  const networks = useNetworks(subject, ['clip_l', 'clip_g'])

  it.each(['clip_l', 'clip_g'] as const)('%s equals transformers: hidden and pooled states', async (network) => {
    const golden = await goldenOf(subject)
    const { eosTokenId, vocabulary } = shapeOf(subject)[network === 'clip_l' ? 'clipL' : 'clipG']
    for (const { name, lengths, every } of CASES[network]) {
      const ids = clipIds(lengths, 4, PADDING[network], eosTokenId === 2 ? undefined : vocabulary - 3)
      const { hidden, pooled } = await networks().run(network, { input_ids: ids })
      expect(computeRelativeError(sampleRows(hidden!, every), golden(`${network}.${name}.hidden`))).toBeLessThan(
        TOLERANCE,
      )
      expect(computeRelativeError(pooled!, golden(`${network}.${name}.pooled`))).toBeLessThan(TOLERANCE)
    }
  })
})
