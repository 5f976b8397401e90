import { execFileSync } from 'node:child_process'
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LIMITS, readHeader } from '../../../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import { packHeader } from '../../../../support/checkpoints/safetensors-file.ts'

let scratch = ''
beforeAll(async () => {
  scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-safetensors-'))
})
afterAll(() => rm(scratch, { recursive: true, force: true }))

async function write(bytes: Uint8Array): Promise<string> {
  const file = path.join(scratch, 'file.safetensors')
  await writeFile(file, bytes)
  return file
}

const createEntry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') =>
  JSON.stringify({ dtype, shape, data_offsets: offsets })

describe('readHeader', () => {
  it('finds every tensor at its offset in the file', async () => {
    const json = `{"b":${createEntry([2], [4, 12])},"__metadata__":{"format":"pt"},"a":${createEntry([], [0, 4])},"empty":${createEntry([3, 0], [12, 12])}}   `
    const { tensors, metadata, bytes, file } = await readHeader(await write(packHeader(json, 12)))
    const start = 8 + json.length
    expect(bytes).toBe(start + 12)
    expect(metadata).toEqual(new Map([['format', 'pt']]))
    expect([...tensors.values()]).toEqual([
      { name: 'b', dtype: 'F32', shape: [2], file, offset: start + 4, bytes: 8 },
      { name: 'a', dtype: 'F32', shape: [], file, offset: start, bytes: 4 },
      { name: 'empty', dtype: 'F32', shape: [3, 0], file, offset: start + 12, bytes: 0 },
    ])
  })

  it('accepts tensor names that are properties of every JavaScript object', async () => {
    const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty']
    const json = `{${names.map((name, i) => `"${name}":${createEntry([1], [4 * i, 4 * i + 4])}`).join()}}`
    const { tensors } = await readHeader(await write(packHeader(json, 16)))
    expect([...tensors.keys()]).toEqual(names)
    expect(({} as Record<string, unknown>).dtype).toBeUndefined()
  })

  const good = createEntry([1], [0, 4])
  it.each<[what: string, file: Uint8Array, message: RegExp]>([
    ['an empty file', new Uint8Array(0), /is empty: its download did not finish/],
    ['half a length', new Uint8Array(7), /7 bytes are too few/],
    ['a header longer than the file', packHeader('{}', 0, 3n), /claims a header of 3 bytes; the file has 2/],
    ['a length of 2^64 - 1', packHeader('{}', 0, 2n ** 64n - 1n), /claims a header of 18446744073709551615 bytes/],
    ['no header', packHeader(''), /must begin with "\{"/],
    ['an array', packHeader('[]'), /must begin with "\{"/],
    ['a byte order mark', packHeader('\ufeff{}'), /must begin with "\{"/],
    ['half an object', packHeader('{"a":'), /malformed/],
    ['a string without end', packHeader('{"a'), /malformed/],
    ['two objects', packHeader('{}{}'), /malformed/],
    ['wrong UTF-8', packHeader(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])), /not UTF-8/],
    ['half a surrogate pair', packHeader('{"\\ud800":1}'), /is not Unicode/],
    ['a key given twice', packHeader(`{"a":${good},"a":${good}}`, 4), /a duplicate key/],
    ['a key given twice, escaped', packHeader(`{"a":${good},"\\u0061":${good}}`, 4), /a duplicate key/],
    ['a field given twice', packHeader('{"a":{"dtype":"F32","dtype":"F16"}}', 4), /a duplicate key/],
    ['deep nesting', packHeader(`{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`), /deeper than 3 levels/],
    ['an entry that is a number', packHeader('{"a":1}'), /tensor "a": its entry is not an object/],
    ['an entry that is null', packHeader('{"a":null}'), /tensor "a": its entry is not an object/],
    [
      'an unknown field',
      packHeader('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"stride":[1]}}', 4),
      /unknown field "stride"/,
    ],
    [
      'an unknown dtype',
      packHeader(`{"a":${createEntry([1], [0, 4], 'F33')}}`, 4),
      /unknown dtype "F33"; known are .*F8_E4M3/,
    ],
    [
      'a dtype that is a method',
      packHeader(`{"a":${createEntry([1], [0, 4], 'toString')}}`, 4),
      /unknown dtype "toString"/,
    ],
    [
      'a dtype that is an object',
      packHeader('{"a":{"dtype":{"toString":1},"shape":[],"data_offsets":[0,4]}}', 4),
      /unknown dtype object/,
    ],
    ['no shape', packHeader('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4), /shape must be/],
    ['a negative size', packHeader(`{"a":${createEntry([-1], [0, 4])}}`, 4), /shape must be .*non-negative/],
    ['a fraction', packHeader(`{"a":${createEntry([0.5], [0, 2])}}`, 2), /shape must be/],
    ['an infinite size', packHeader('{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}', 4), /shape must be/],
    ['nine axes', packHeader(`{"a":${createEntry(Array(9).fill(1), [0, 4])}}`, 4), /at most 8/],
    [
      'sizes that overflow',
      packHeader(`{"a":${createEntry([2 ** 32, 2 ** 32, 2 ** 32], [0, 4])}}`, 4),
      /takes more than can be counted/,
    ],
    [
      'sizes that overflow to nothing',
      packHeader(`{"a":${createEntry([2 ** 52, 2 ** 52, 0], [0, 0])}}`),
      /takes more than can be counted/,
    ],
    ['one offset', packHeader(`{"a":${createEntry([1], [0])}}`, 4), /data_offsets must be two/],
    ['negative offsets', packHeader(`{"a":${createEntry([1], [-4, 0])}}`, 4), /data_offsets must be two/],
    ['offsets that run backwards', packHeader(`{"a":${createEntry([1], [4, 0])}}`, 4), /data_offsets span -4 bytes/],
    [
      'offsets that do not fit the shape',
      packHeader(`{"a":${createEntry([2], [0, 4])}}`, 4),
      /span 4 bytes; shape \[2\] of F32 takes 8/,
    ],
    [
      'a tensor behind the end',
      packHeader(`{"a":${createEntry([2], [0, 8])}}`, 4),
      /ends at byte \d+ of a file of \d+: the file is truncated/,
    ],
    [
      'two tensors on the same bytes',
      packHeader(`{"a":${good},"b":${good}}`, 4),
      /"b": its bytes overlap those of another tensor by 4/,
    ],
    [
      'a hole',
      packHeader(`{"a":${good},"b":${createEntry([1], [8, 12])}}`, 12),
      /"b": 4 bytes before it belong to no tensor/,
    ],
    [
      'a hole at the start',
      packHeader(`{"a":${createEntry([1], [4, 8])}}`, 8),
      /"a": 4 bytes before it belong to no tensor/,
    ],
    ['bytes at the end', packHeader(`{"a":${good}}`, 5), /1 bytes at the end belong to no tensor/],
    ['a long name', packHeader(`{"${'x'.repeat(513)}":${good}}`, 4), /longer than 512 characters/],
    ['metadata that is no object', packHeader('{"__metadata__":[]}'), /__metadata__ is not an object/],
    ['metadata that is no text', packHeader('{"__metadata__":{"a":1}}'), /__metadata__ "a" is not a string/],
  ])('refuses %s', async (_, bytes, message) => {
    expect(await refusal(readHeader(await write(bytes)))).toMatch(message)
  })

  it('refuses more tensors than it allows', async () => {
    const empty = createEntry([0], [0, 0])
    const json = `{${Array.from({ length: LIMITS.tensors + 1 }, (_, i) => `"${i}":${empty}`).join()}}`
    expect(await refusal(readHeader(await write(packHeader(json))))).toMatch('more than 100000 tensors')
  })

  it('refuses a header with too many JSON values before parsing it', async () => {
    const json = `{"a":[${'0,'.repeat(3_000_000)}0]}`
    expect(await refusal(readHeader(await write(packHeader(json))))).toMatch('the JSON has more than 1200000 values')
  })

  it('allocates no memory for a header above the size limit', async () => {
    const file = await write(packHeader('{}', 0, BigInt(LIMITS.headerBytes) + 1n))
    await truncate(file, 2 * LIMITS.headerBytes)
    const before = process.memoryUsage().arrayBuffers
    expect(await refusal(readHeader(file))).toMatch('100000000 are allowed')
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1e6)
  })

  it('refuses files other than regular ones, including a pipe without a writer', async () => {
    expect(await refusal(readHeader(path.join(scratch, 'absent')))).toMatch('ENOENT')
    expect(await refusal(readHeader(scratch))).toMatch('is not a regular file')
    const pipe = path.join(scratch, 'pipe')
    execFileSync('mkfifo', [pipe])
    expect(await refusal(readHeader(pipe))).toMatch('is not a regular file')
  })

  it('truncates and escapes hostile names in messages', async () => {
    const message = await refusal(readHeader(await write(packHeader(`{"\\u001b[2J${'x'.repeat(400)}":1}`))))
    expect(message).toContain('\\u001b')
    expect(message).not.toContain('\u001b')
    expect(message.length).toBeLessThan(400)
  })
})
