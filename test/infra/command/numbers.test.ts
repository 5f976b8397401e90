// Numbers on the command line.
import { globSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseAmount, parseCount, parseWholeNumber } from '../../../infra/command/numbers.ts'

const ROOT = path.join(import.meta.dirname, '../../..')

describe('parsers', () => {
  test.each(['', ' ', '-1', '0x10', '1e3', 'Infinity', 'NaN', 'ten', '1.', '.5', '1,5', '٣'])('refuse %j', (text) => {
    for (const parse of [parseWholeNumber, parseCount, parseAmount]) expect(() => parse(text)).toThrow('It must be')
  })

  test('whole numbers from 0 or 1, and decimal numbers', () => {
    expect(['0', '12', '007'].map(parseWholeNumber)).toEqual([0, 12, 7])
    expect(['1', '12'].map(parseCount)).toEqual([1, 12])
    expect(['0', '2', '0.05'].map(parseAmount)).toEqual([0, 2, 0.05])
    expect(() => parseWholeNumber('0.5')).toThrow('It must be a whole number.')
    expect(() => parseCount('0')).toThrow('It must be at least 1.')
  })
})

test('no option is parsed by a function that returns NaN for other text', () => {
  const files = globSync(['infra/**/*.ts', 'test/{gpu,clients}/**/*.ts'], { cwd: ROOT })
  const lenient = /\.(?:option|requiredOption|argument)\([^\n]*,\s*(?:Number|Number\.parse\w+|parse(?:Int|Float))\b/
  expect(lenient.test("command.option('--runs <count>', 'runs', Number, 9)")).toBe(true)
  expect(files.length).toBeGreaterThan(100)
  expect(files.filter((file) => lenient.test(readFileSync(path.join(ROOT, file), 'utf8')))).toEqual([])
})
