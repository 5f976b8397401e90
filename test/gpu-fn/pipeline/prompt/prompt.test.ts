import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeAll, describe, expect, test } from 'vitest'
import { describeText } from '../../../../gpu-fn/models/sd35/text-encoders.ts'
import { encodePrompts, type TextEncoder } from '../../../../gpu-fn/pipeline/prompt/prompt.ts'
import type { Session, Tensor } from '../../../../gpu-fn/runtime/session.ts'
import { openTokenizer, type PromptTokenizer } from '../../../../gpu-fn/tokenizer/tokenizer.ts'

const TINY = path.join(import.meta.dirname, '../../../../infra/checkpoints/tiny/tokenizers')
const DIRECTORIES = { clip_l: 'tokenizer', clip_g: 'tokenizer_2', t5: 'tokenizer_3' } as const
type EncoderName = keyof typeof DIRECTORIES
const WIDTHS = { clip_l: 2, clip_g: 3, t5: 8 }
const JOINT_WIDTH = 8
const CLIP_L = { width: 2, pooledWidth: 2, tokens: 77 }
const CLIP_G = { width: 3, pooledWidth: 3, tokens: 77 }
const MARKS = { clip_l: 1, clip_g: 2, t5: 3 }

let tokenizers: Record<EncoderName, PromptTokenizer>
beforeAll(async () => {
  const open = (name: EncoderName) => openTokenizer(path.join(TINY, DIRECTORIES[name]))
  tokenizers = { clip_l: await open('clip_l'), clip_g: await open('clip_g'), t5: await open('t5') }
})

/** Encoders whose hidden states are their mark, and whose pooled vectors are 10 times their mark; `runs` records batch and rows. */
function encoders(...names: EncoderName[]) {
  const runs: (readonly number[])[] = []
  const createSession = (name: EncoderName): Session => ({
    async run({ input_ids }, { signal } = {}) {
      signal?.throwIfAborted()
      const [batch, rows] = input_ids!.dims as [number, number]
      runs.push([batch, rows])
      const createFilled = (dims: number[], value: number): Tensor => ({
        dims,
        data: new Float32Array(dims.reduce((a, b) => a * b)).fill(value),
      })
      const hidden = createFilled([batch, rows, WIDTHS[name]], MARKS[name])
      return name === 't5' ? { hidden } : { hidden, pooled: createFilled([batch, WIDTHS[name]], 10 * MARKS[name]) }
    },
    runOnDevice: () => Promise.reject(new Error('encoders leave nothing on the device')),
    release: async () => {},
  })
  const shape = describeText(
    {
      clip_l: names.includes('clip_l') ? CLIP_L : null,
      clip_g: names.includes('clip_g') ? CLIP_G : null,
      t5: names.includes('t5') ? { graphs: ['t5'] } : null,
    },
    { contextWidth: JOINT_WIDTH, pooledWidth: 5 },
  )
  const opened = shape.encoders.map((about): TextEncoder => {
    const name = about.name as EncoderName
    return { about, session: createSession(name), tokenizer: tokenizers[name] }
  })
  return { opened, shape, runs }
}

async function encode(names: EncoderName[], maxTokens?: number, text = 'a cat') {
  const { opened, shape } = encoders(...names)
  const encoded = await encodePrompts(opened, shape, [{ name: 'prompt', text }], { maxTokens, batched: true })
  const { embeds, rows, pooled } = encoded.prompts[0]!
  const sliceRow = (i: number) => [...embeds.subarray(i * JOINT_WIDTH, (i + 1) * JOINT_WIDTH)]
  return { rows, row: sliceRow, pooled: [...pooled], length: embeds.length, truncations: encoded.truncations }
}

const BOTH = [1, 1, 2, 2, 2, 0, 0, 0]
const T5 = new Array(8).fill(3)
const NOTHING = new Array(8).fill(0)

test('the error of an encoder is thrown once the others have ended, because they use what is then released', async () => {
  const { opened, shape } = encoders('clip_l', 'clip_g')
  const ended: string[] = []
  const [first, second] = opened.map((encoder) => ({ ...encoder }))
  first!.session = { ...first!.session, run: () => Promise.reject(new Error('no memory')) }
  const { run } = second!.session
  const late: Session['run'] = async (...given) => {
    await sleep(50)
    ended.push('clip_g')
    return run(...given)
  }
  second!.session = { ...second!.session, run: late }
  const prompts = [{ name: 'prompt', text: 'a cat' }]
  await expect(encodePrompts([first!, second!], shape, prompts, { batched: true })).rejects.toThrow('no memory')
  expect(ended).toEqual(['clip_g'])
})

describe('assembly', () => {
  test('puts CLIP-L beside CLIP-G, pads to the joint width, and T5 below', async () => {
    const { rows, row, pooled, length } = await encode(['clip_l', 'clip_g', 't5'])
    expect([rows, length]).toEqual([77 + 256, (77 + 256) * 8])
    expect([row(0), row(76), row(77), row(332)]).toEqual([BOTH, BOTH, T5, T5])
    expect(pooled).toEqual([10, 10, 20, 20, 20])
  })

  test('rows of zeros replace a missing T5, as many as its tokens', async () => {
    const { rows, row } = await encode(['clip_l', 'clip_g'])
    expect([rows, row(76), row(77), row(332)]).toEqual([333, BOTH, NOTHING, NOTHING])
    expect((await encode(['clip_l', 'clip_g'], 100)).rows).toBe(177)
  })

  test('without CLIP-L, CLIP-G keeps its columns', async () => {
    const { row, pooled } = await encode(['clip_g', 't5'])
    expect([row(0), row(77)]).toEqual([[0, 0, 2, 2, 2, 0, 0, 0], T5])
    expect(pooled).toEqual([0, 0, 20, 20, 20])
  })

  test('without CLIP-G, its columns are zero', async () => {
    const { row, pooled } = await encode(['clip_l', 't5'])
    expect([row(0), row(77)]).toEqual([[1, 1, 0, 0, 0, 0, 0, 0], T5])
    expect(pooled).toEqual([10, 10, 0, 0, 0])
  })

  test('T5 alone has no rows above it, and without any encoder there are 256 rows of zeros', async () => {
    const alone = await encode(['t5'])
    expect([alone.rows, alone.row(0), alone.pooled]).toEqual([256, T5, [0, 0, 0, 0, 0]])
    expect((await encode([])).rows).toBe(256)
  })
})

describe('lengths', () => {
  test('max_sequence_length sets the token count of T5, but not of CLIP', async () => {
    const names: EncoderName[] = ['clip_l', 'clip_g', 't5']
    for (const tokens of [77, 128, 512]) expect((await encode(names, tokens, '')).rows).toBe(77 + tokens)
    const longest = await encode(names, 512, 'cat '.repeat(2_000))
    expect(longest.rows).toBe(77 + 512)
    expect(longest.truncations.at(-1)).toMatch(/^the prompt exceeds the 512 tokens of T5/)
  })

  test('each encoder reads its own prompt, or the first one', async () => {
    const read = async (own: { prompt_2?: string; prompt_3?: string }) => {
      const { opened, shape } = encoders('clip_l', 'clip_g', 't5')
      const prompt = { name: 'prompt', text: 'cat '.repeat(300), own }
      return (await encodePrompts(opened, shape, [prompt], { batched: true })).truncations
    }
    const lengths = ['77 tokens of CLIP-L', '77 tokens of CLIP-G', '256 tokens of T5']
    expect(await read({})).toEqual(
      lengths.map((tokens) => expect.stringMatching(new RegExp(`^the prompt exceeds the ${tokens}, so `))),
    )
    const own = await read({ prompt_2: 'dog '.repeat(100), prompt_3: 'bird' })
    expect(own).toEqual([
      expect.stringMatching(/^the prompt exceeds the 77 tokens of CLIP-L, /),
      expect.stringMatching(/^the prompt_2 exceeds the 77 tokens of CLIP-G, /),
    ])
    // As in diffusers, an empty prompt counts as absent.
    expect(await read({ prompt_2: '', prompt_3: '' })).toHaveLength(3)
  })

  test.each([Number.NaN, Number.POSITIVE_INFINITY])(
    'an output of %d is an error with the name of the encoder',
    async (value) => {
      const { opened, shape } = encoders('clip_l', 't5')
      const run = async () => ({ hidden: { dims: [1, 77, 2], data: new Float32Array(154).fill(value) } })
      const broken = [{ ...opened[0]!, session: { ...opened[0]!.session, run } }, opened[1]!]
      await expect(encodePrompts(broken, shape, [{ name: 'prompt', text: '' }], { batched: true })).rejects.toThrow(
        'the output of CLIP-L contains NaN or infinity',
      )
    },
  )

  test('names the encoder and the truncated text, in a few lines', async () => {
    const { truncations } = await encode(['clip_l', 't5'], undefined, `${'cat '.repeat(300)}dog`)
    expect(truncations).toHaveLength(2)
    expect(truncations[0]).toMatch(/^the prompt exceeds the 77 tokens of CLIP-L, so "cat cat .*…" is ignored$/)
    expect(truncations[1]).toMatch(/^the prompt exceeds the 256 tokens of T5, so "cat .* dog" is ignored$/)
    expect(truncations[0]!.length).toBeLessThan(400)
  })

  test('an aborted signal stops every encoder with its reason', async () => {
    const { opened, shape, runs } = encoders('clip_l', 't5')
    const options = {
      batched: true,
      signal: AbortSignal.abort(new Error('too late')),
    } as const
    await expect(encodePrompts(opened, shape, [{ name: 'prompt', text: 'cat' }], options)).rejects.toThrow('too late')
    expect(runs).toEqual([])
  })

  test('prompts of equal length share a run if batches are allowed', async () => {
    const prompts = [
      { name: 'negative prompt', text: '' },
      { name: 'prompt', text: 'cat '.repeat(200) },
    ]
    const asked = async (batched: boolean) => {
      const { opened, shape, runs } = encoders('clip_l', 't5')
      await encodePrompts(opened, shape, prompts, { batched })
      // Encoders run side by side, so only the order of one encoder's runs is fixed.
      return runs.sort(([, a], [, b]) => a! - b!)
    }
    expect(await asked(true)).toEqual([
      [2, 77],
      [2, 256],
    ])
    expect(await asked(false)).toEqual([
      [1, 77],
      [1, 77],
      [1, 256],
      [1, 256],
    ])
  })
})
