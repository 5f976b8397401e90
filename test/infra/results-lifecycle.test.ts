import { expect, test } from 'vitest'
import { computeRetentionEnd, inputPrefixOf, RETENTION_DAYS, resultPrefixOf } from '../../edge/results/retention.ts'
import lifecycle from '../../infra/results-lifecycle.json' with { type: 'json' }

test('R2 deletes images at the end of their retention, and reuse notes with the last of them', () => {
  const rules = lifecycle.rules.map(({ enabled, conditions: { prefix }, deleteObjectsTransition: { condition } }) => [
    enabled && condition.type === 'Age',
    prefix,
    condition.maxAge / 86_400,
  ])
  const images = RETENTION_DAYS.map((days) => [true, resultPrefixOf(days, '').slice(0, -1), days])
  expect(rules).toEqual([
    ...images,
    [true, 'reuse/', Math.max(...RETENTION_DAYS)],
    [true, inputPrefixOf('').slice(0, -1), 1],
  ])
})

test('a job is deleted a week after R2 deletes its images', () => {
  for (const retentionDays of RETENTION_DAYS) {
    const rule = lifecycle.rules.find(({ conditions: { prefix } }) => prefix === `results/${retentionDays}d/`)
    const imagesEnd = rule!.deleteObjectsTransition.condition.maxAge * 1000
    expect(computeRetentionEnd({ created: 0, finished: null, retentionDays })).toBe(imagesEnd + 7 * 24 * 3600_000)
  }
})
