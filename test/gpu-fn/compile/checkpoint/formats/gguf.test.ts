import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../../../../../gpu-fn/compile/checkpoint/error.ts'
import { readGguf } from '../../../../../gpu-fn/compile/checkpoint/formats/gguf.ts'
import type { Checkpoint } from '../../../../../gpu-fn/compile/checkpoint/tensor.ts'
import { openCheckpoint } from '../../../../../gpu-fn/models/sd35/sd35.ts'
import { GGUF_TYPES, type GgufTensor, packGguf } from '../../../../support/checkpoints/gguf-file.ts'
import { createSeededRandom, type Random } from '../../../../support/checkpoints/mutate.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import { FUZZ_FILES } from '../../../../support/fuzz-files.ts'
import { useScratch } from '../../../../support/scratch.ts'

const scratch = useScratch()
const { F32, F16, Q4_0, Q8_0, Q6_K, IQ1_S, I64 } = GGUF_TYPES
const keepName = (name: string) => name
const NAME = 'joint_blocks.0.x_block.mlp.fc1.weight'

async function write(...content: Parameters<typeof packGguf>): Promise<string> {
  const file = path.join(scratch.directory, 'x.gguf')
  const { header, data } = packGguf(...content)
  await writeFile(file, Buffer.concat([header, data]))
  return file
}
const refuse = async (...content: Parameters<typeof packGguf>) => refusal(readGguf(await write(...content), keepName))

describe('readGguf', () => {
  it('returns shapes in the order of safetensors, and offsets in the file', async () => {
    const tensors: [string, GgufTensor][] = [
      ['a', { type: Q8_0, shape: [2, 64] }],
      ['b', { type: F16, shape: [3] }],
      ['c', { type: F32, shape: [2, 1, 2] }],
    ]
    const file = await write(tensors, { 'general.architecture': 'sd3', 'general.alignment': 64, tokens: ['x', 'y'] })
    const { header } = packGguf(tensors, { 'general.architecture': 'sd3', 'general.alignment': 64, tokens: ['x', 'y'] })
    const found = [...(await readGguf(file, (name) => `${name}!`)).tensors]
    expect(found).toEqual([
      ['a!', { name: 'a', dtype: 'Q8_0', shape: [2, 64], file, offset: header.length, bytes: 136 }],
      ['b!', { name: 'b', dtype: 'F16', shape: [3], file, offset: header.length + 192, bytes: 6 }],
      ['c!', { name: 'c', dtype: 'F32', shape: [2, 1, 2], file, offset: header.length + 256, bytes: 16 }],
    ])
  })

  it.each<[what: string, content: Parameters<typeof packGguf>, message: string | RegExp]>([
    [
      'an unsupported type',
      [[['a', { type: IQ1_S, shape: [256] }]]],
      /type IQ1_S is not supported; use .* F32, F16, Q4_0/,
    ],
    ['an unknown type', [[['a', { type: I64, shape: [2] }]]], /type I64 is not supported/],
    [
      'rows of partial blocks',
      [[['a', { type: Q4_0, shape: [32, 16] }]]],
      'rows of 16 values are not whole blocks of 32',
    ],
    [
      'rows of partial K-blocks',
      [[['a', { type: Q6_K, shape: [8, 32] }]]],
      'not whole blocks of 256, as Q6_K requires',
    ],
    [
      'two tensors of one name',
      [
        [
          ['a', { type: F32, shape: [1] }],
          ['a', { type: F32, shape: [1] }],
        ],
      ],
      'two tensors have the name "a"',
    ],
    [
      'an offset behind the file',
      [[['a', { type: F32, shape: [1], offset: 99n }]]],
      'the file is truncated or its header is wrong',
    ],
    ['an immense offset', [[['a', { type: F32, shape: [1], offset: 2n ** 64n - 1n }]]], 'the file is truncated'],
    [
      'tensors that overlap',
      [
        [
          ['a', { type: F32, shape: [9] }],
          ['b', { type: F32, shape: [1], offset: 32n }],
        ],
      ],
      'overlap',
    ],
    [
      'a part of a split file',
      [[['a', { type: F32, shape: [1] }]], { 'split.count': 3 }],
      'is one of 3 parts; join them',
    ],
    [
      'an alignment of 3',
      [[['a', { type: F32, shape: [1] }]], { 'general.alignment': 3 }],
      'powers of two up to 65536',
    ],
    ['too many axes', [[['a', { type: F32, shape: [1, 1, 1, 1, 1, 1, 1, 1, 1] }]]], 'is not a valid GGUF file'],
    ['a name with a terminal sequence', [[['\u001b[32mok', { type: I64, shape: [1] }]]], 'tensor "\\u001b[32mok"'],
  ])('refuses %s', async (_, content, message) => {
    expect(await refuse(...content)).toMatch(message)
  })

  it('refuses a file truncated at any offset', async () => {
    const { header, data } = packGguf([[NAME, { type: Q8_0, shape: [4, 32] }]], { 'general.architecture': 'sd3' })
    const file = path.join(scratch.directory, 'cut.gguf')
    for (let length = 4; length < header.length + data.length - 24; length += 7) {
      await writeFile(file, Buffer.concat([header, data]).subarray(0, length))
      expect((await refusal(openCheckpoint([file]))).length).toBeLessThan(400)
    }
  })

  it.each<[what: string, change: (file: Buffer) => void]>([
    ['ten million tensors', (file) => file.writeBigUInt64LE(10_000_000n, 8)],
    [
      'arrays of a million numbers',
      (file) => {
        file.writeBigUInt64LE(100n, 16)
        // An empty key, then the types of the value (array) and of its elements (U8), and their number.
        for (let at = 24; at < file.length - 24; at += 24 + 1_000_000) {
          file.writeUInt32LE(9, at + 8)
          file.writeBigUInt64LE(1_000_000n, at + 16)
        }
      },
    ],
  ])('bounds the memory for a header of %s', async (_, change) => {
    const hostile = Buffer.alloc(40_000_000)
    packGguf([], {}).header.copy(hostile)
    change(hostile)
    const file = path.join(scratch.directory, 'hostile.gguf')
    await writeFile(file, hostile)
    const before = process.memoryUsage().rss
    expect(await refusal(readGguf(file, keepName))).toMatch('has a header of more than 8000000 bytes')
    expect(process.memoryUsage().rss - before).toBeLessThan(500e6)
  })

  it('reads the names of llama.cpp, without its decoder and output layer', async () => {
    const tensors: [string, GgufTensor][] = [
      ['token_embd.weight', { type: F16, shape: [4, 32] }],
      ['enc.blk.0.attn_q.weight', { type: Q8_0, shape: [32, 32] }],
      ['enc.output_norm.weight', { type: F32, shape: [32] }],
      ['dec.blk.0.attn_q.weight', { type: Q8_0, shape: [32, 32] }],
      ['output.weight', { type: Q8_0, shape: [4, 32] }],
    ]
    const { networks } = await openCheckpoint([await write(tensors, { 'general.architecture': 't5' })])
    expect([...networks.t5!.keys()].sort()).toEqual([
      'encoder.block.0.layer.0.SelfAttention.q.weight',
      'encoder.final_layer_norm.weight',
      'shared.weight',
    ])
  })
})

/** Files per kind of damage. */
const FILES = FUZZ_FILES / 2
const MEMORY_LIMIT = 200e6

const BASE: Parameters<typeof packGguf> = [
  [
    [NAME, { type: Q8_0, shape: [2, 32] }],
    ['joint_blocks.0.x_block.attn.qkv.weight', { type: Q4_0, shape: [3, 64] }],
    ['pos_embed', { type: F16, shape: [1, 4, 2] }],
    ['x_embedder.proj.weight', { type: F32, shape: [2, 4, 1, 1] }],
  ],
  { 'general.architecture': 'sd3', 'general.quantization_version': 2, tokens: ['a', 'bc'], 'general.alignment': 32 },
]
const NUMBERS = [
  0n,
  1n,
  3n,
  8n,
  9n,
  32n,
  255n,
  65_537n,
  1_000_001n,
  2n ** 31n,
  2n ** 32n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
]

/** Damages the bytes of a file, whose header ends at `end`. */
const DAMAGES: Record<string, (random: Random, file: Buffer, end: number) => Buffer> = {
  'flipped bits': (random, file, end) => {
    for (let flips = 1 + random.below(4); flips > 0; flips--) file[random.below(end)]! ^= 1 << random.below(8)
    return file
  },
  'other 64-bit numbers': (random, file, end) => {
    file.writeBigUInt64LE(random.pick(NUMBERS), 4 + random.below(end - 12))
    return file
  },
  'other 32-bit numbers': (random, file, end) => {
    file.writeUInt32LE(Number(random.pick(NUMBERS) & 0xffffffffn), 4 + random.below(end - 12))
    return file
  },
  'a cut': (random, file) => file.subarray(0, random.below(file.length)),
  'repeated pieces': (random, file, end) => {
    const place = 4 + random.below(end - 12)
    return Buffer.concat([
      file.subarray(0, place),
      file.subarray(place, place + random.below(40)),
      file.subarray(place),
    ])
  },
}

describe('damaged GGUF files', () => {
  it.each(Object.entries(DAMAGES))(
    `with %s: all ${FILES} are valid or refused with a CheckpointError`,
    async (name, damage) => {
      const random = createSeededRandom(name.length)
      const { header, data } = packGguf(...BASE)
      const file = path.join(scratch.directory, 'fuzz.gguf')
      let [opened, memory] = [0, 0]
      for (let i = 0; i < FILES; i++) {
        const bytes = damage(random, Buffer.concat([header, data]), header.length)
        await writeFile(file, bytes)
        const checkpoint = await openCheckpoint([file]).catch((error: unknown) => error)
        memory = Math.max(memory, process.memoryUsage().arrayBuffers)
        if (checkpoint instanceof CheckpointError) expectPrintable(checkpoint.message)
        else if (checkpoint instanceof Error) throw checkpoint
        else {
          opened++
          expectReadable(checkpoint as Checkpoint, bytes.length)
        }
      }
      expect(memory).toBeLessThan(MEMORY_LIMIT)
      expect(opened).toBeLessThan(FILES / 2)
    },
  )
})

function expectPrintable(message: string): void {
  expect(message.length).toBeLessThan(2000)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: names must not control the terminal.
  expect(message).not.toMatch(/[\u0000-\u001f\u007f]/)
}

function expectReadable({ networks }: Checkpoint, fileBytes: number): void {
  for (const { parts } of Object.values(networks).flatMap((tensors) => [...tensors.values()]))
    for (const { offset, bytes } of parts) expect(offset + bytes).toBeLessThanOrEqual(fileBytes)
}
