import { describe, expect, test } from 'vitest'
import { escapeText, seed, seedOf } from '../../gpu-fn/contract.ts'

describe('seeds', () => {
  test.each([
    [0, 0],
    ['0', 0],
    ['007', 7],
    [2 ** 53 - 1, 2 ** 53 - 1],
    ['9007199254740991', 2 ** 53 - 1],
    ['9007199254740992', '9007199254740992'],
    ['18446744073709551615', '18446744073709551615'],
  ])('%j is read as %j', (given, expected) => expect(seed.parse(given)).toBe(expected))

  test.each([-1, 0.5, 2 ** 53, Number.NaN, '', '-1', '1e3', ' 1', '18446744073709551616', '9'.repeat(21), null])(
    '%j is refused',
    (given) => expect(seed.safeParse(given).success).toBe(false),
  )

  test('the seed of image k is seed + k, modulo 2^64', () => {
    expect(seedOf(2 ** 53 - 1, 1)).toBe('9007199254740992')
    expect(seedOf('18446744073709551615', 1)).toBe(0)
  })
})

test('escaped text shows every character, and JSON keeps its value', () => {
  const text = 'ok \u001b[32mgreen\u009b0m \u202eevil\u2028\n\ud800 \u{e0041} é 猫 😀'
  const escaped = escapeText(text)
  expect(escaped).not.toMatch(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u)
  expect(escaped).toContain('ok \\u001b[32mgreen\\u009b0m \\u202eevil\\u2028\\u000a\\ud800 \\udb40\\udc41 é 猫 😀')
  expect(JSON.parse(escapeText(JSON.stringify({ text })))).toEqual({ text })
})
