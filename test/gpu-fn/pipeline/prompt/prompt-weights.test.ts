// Weights of prompts against ComfyUI's rules, on a tiny checkpoint.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type OpenPipeline, openPipeline } from '../../../../gpu-fn/engine/package/open-pipeline.ts'
import { describeWeightProblem, encodePrompts } from '../../../../gpu-fn/pipeline/prompt/prompt.ts'
import { hasWeights, parseWeights } from '../../../../gpu-fn/tokenizer/prompt-weights.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import golden from '../../../golden/prompt-weights.json' with { type: 'json' }
import { compileTiny } from '../../../support/checkpoints/compile.ts'

describe('the segments of a prompt', () => {
  test('are those of ComfyUI', () => {
    expect(golden.segments.length).toBeGreaterThan(200)
    for (const { prompt, segments } of golden.segments) {
      const ours = parseWeights(prompt).map(({ text, weight }) => [text, weight])
      expect(ours, JSON.stringify(prompt)).toEqual(segments)
    }
  })

  test.each([
    ['(a:11)', 'has the weight 11; weights are from -10 to 10'],
    ['(a:-1e9)', 'has the weight -1000000000; weights are from -10 to 10'],
    ['(a:nan)', 'has the weight NaN; weights are from -10 to 10'],
    ['(a:-Infinity)', 'has the weight -Infinity; weights are from -10 to 10'],
    [`${'('.repeat(30)}a${')'.repeat(30)}`, 'has the weight 10.8347; weights are from -10 to 10'],
    [`${'('.repeat(40)}a${':1)'.repeat(40)}`, 'has more than 32 levels of nested parentheses'],
    ['(((a:1.2)))', null],
  ])('%s: %s', (prompt, problem) => {
    expect(describeWeightProblem(prompt)).toBe(problem)
  })

  test('are found in bounded time for hostile prompts', () => {
    for (const piece of [
      '(',
      ')',
      '()',
      '(a',
      'a)',
      '(a:1)',
      '((a:1)',
      '\\(',
      ':',
      '(:',
      '(a:1.5',
      '\0\x01',
      '(\ud800:1)',
    ]) {
      const prompt = piece.repeat(Math.floor(10_000 / piece.length))
      expect(describeWeightProblem(prompt)).toBe(null)
      expect(hasWeights(prompt)).toBe(piece.endsWith(':1)'))
    }
  })

  test.each([
    ['a (red:1.3) cat', true],
    ['a ((red: .5 )) cat', true],
    ['a cat (the black one)', false],
    ['at (3:30) o’clock:', true],
    ['((cat))', false],
    ['', false],
  ])('%s: %s', (prompt, weights) => {
    expect(hasWeights(prompt)).toBe(weights)
  })
})

describe('the embeddings of a tiny SD3.5', () => {
  let pipeline: OpenPipeline
  beforeAll(async () => {
    pipeline = await openPipeline(await openPackage(await compileTiny({ variant: 'tiny-medium' })))
  })
  afterAll(() => pipeline.release())

  const encode = async (text: string, weighted: boolean) => {
    const { text: shape } = pipeline.package.manifest
    const options = { maxTokens: 100, weighted, batched: true }
    const negative = { name: 'negative prompt', text: '' }
    const { prompts, ...rest } = await encodePrompts(
      pipeline.encoders,
      shape,
      [negative, { name: 'prompt', text }],
      options,
    )
    return { ...rest, ...prompts[1]!, joint: shape.joint_width }
  }
  const decode = (text: string) => new Float32Array(Uint8Array.from(Buffer.from(text, 'base64')).buffer)

  test.each(golden.embeddings)('of $encoder are ComfyUI’s for $prompt', async (expected) => {
    const { embeds, pooled, joint } = await encode(expected.prompt, true)
    const about = pipeline.encoders.find((encoder) => encoder.about.name === expected.encoder)!.about
    const first = about.segment === 0 ? 0 : 77
    const theirs = decode(expected.every_11th_row)
    let largest = 0
    for (const [i, value] of theirs.entries()) {
      const [row, column] = [11 * Math.floor(i / expected.width), i % expected.width]
      const ours = embeds[(first + row) * joint + about.column + column]!
      largest = Math.max(largest, Math.abs(ours - value) / Math.max(1, Math.abs(value)))
    }
    expect(largest).toBeLessThan(1e-5)
    if (expected.pooled === null) return
    const vector = decode(expected.pooled)
    for (const [i, value] of vector.entries()) expect(pooled[about.pooled_offset! + i]).toBeCloseTo(value, 4)
  })

  test('equal those of the plain words without weights, or with weights of 1', async () => {
    const plain = await encode('a red cat', false)
    for (const text of ['a red cat', '(a red cat:1.0)']) expect((await encode(text, true)).embeds).toEqual(plain.embeds)
    expect((await encode('(a red cat:1.0)', false)).embeds).not.toEqual(plain.embeds)
  })

  test('exclude the end of a long prompt, with a warning', async () => {
    const { truncations } = await encode(`(flowers:1.2) ${'sunlight and birds '.repeat(60)}(the end:0.5)`, true)
    expect(truncations).toHaveLength(3)
    expect(truncations[0]).toMatch(/^the prompt exceeds the 77 tokens of CLIP-L, so ".+" is ignored$/)
    const short = await encode(`${'sunlight '.repeat(10)}(the end:0.5)`, true)
    expect(short.truncations).toEqual([])
  })
})
