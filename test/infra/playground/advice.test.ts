import { expect, test } from 'vitest'
import { ERRORS } from '../../../edge/http/error-codes.ts'
import { ADVICE, adviceFor } from '../../../edge/playground/ui/advice.ts'

test.each(Object.keys(ERRORS))('the page says in words what to do about %s', (code) => {
  expect(adviceFor(code)).toMatch(/^[A-Z][^_]{14,}[.]$/)
})

test('has advice for no other codes', () => {
  expect(Object.keys(ADVICE).toSorted()).toEqual([...Object.keys(ERRORS), 'offline'].toSorted())
  expect(adviceFor('unknown')).toBeUndefined()
})
