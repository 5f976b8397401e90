import { expect, test } from 'vitest'
import { ERRORS } from '../../../edge/http/error-codes.ts'
import { ADVICE, findAdvice } from '../../../edge/playground/ui/advice.ts'

test.each(Object.keys(ERRORS))('the page has advice for the error %s', (code) => {
  expect(findAdvice(code)).toMatch(/^[A-Z][^_]{14,}[.]$/)
})

test('the page has no advice for unknown codes', () => {
  expect(Object.keys(ADVICE).toSorted()).toEqual([...Object.keys(ERRORS), 'offline'].toSorted())
  expect(findAdvice('unknown')).toBeUndefined()
})
