import { describe, expect, it } from 'vitest'
import { computeRelativeError, createT5Ids, sampleRows } from '../../../../support/checkpoints/tensors.ts'
import { CASES, goldenOf, listSubjects, TOLERANCE, useNetworks } from '../../../../support/checkpoints/tiny.ts'

describe.each(listSubjects('t5'))('T5 of $variant, $layout, $tier', (subject) => {
  const networks = useNetworks(subject, ['t5'])

  it.each(CASES.t5)('equals transformers on $batch × $tokens tokens', async ({ name, batch, tokens, every }) => {
    const golden = await goldenOf(subject)
    const { hidden } = await networks().run('t5', { input_ids: createT5Ids(batch, tokens, 5) })
    expect(computeRelativeError(sampleRows(hidden!, every), golden(`t5.${name}.hidden`))).toBeLessThan(TOLERANCE)
  })
})
