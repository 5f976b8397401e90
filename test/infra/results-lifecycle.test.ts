import { expect, test } from 'vitest'
import { RETENTION_DAYS, resultPrefix } from '../../edge/retention.ts'
import lifecycle from '../../infra/results-lifecycle.json' with { type: 'json' }

test('R2 deletes images when their retention is over, and notes for reuse with the last of them', () => {
  const rules = lifecycle.rules.map(({ enabled, conditions: { prefix }, deleteObjectsTransition: { condition } }) => [
    enabled && condition.type === 'Age',
    prefix,
    condition.maxAge / 86_400,
  ])
  const images = RETENTION_DAYS.map((days) => [true, resultPrefix(days, '').slice(0, -1), days])
  expect(rules).toEqual([...images, [true, 'reuse/', Math.max(...RETENTION_DAYS)]])
})
