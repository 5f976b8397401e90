import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readSharded } from '../../../../../gpu-fn/compile/checkpoint/layout/shards.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import { packTensors, writeTensors } from '../../../../support/checkpoints/safetensors-file.ts'

let scratch = ''
beforeAll(async () => {
  scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-shards-'))
})
afterAll(() => rm(scratch, { recursive: true, force: true }))

describe('readSharded', () => {
  const one = { dtype: 'F16', shape: [2] }

  async function writeIndex(weightMap: unknown): Promise<string> {
    const directory = path.join(scratch, 'sharded')
    await mkdir(directory, { recursive: true })
    await writeTensors(path.join(directory, 'x-1.safetensors'), { a: one, b: one })
    await writeTensors(path.join(directory, 'x-2.safetensors'), { c: one })
    const file = path.join(directory, 'x.safetensors.index.json')
    await writeFile(file, JSON.stringify({ metadata: { total_size: 12 }, weight_map: weightMap }))
    return file
  }
  const honest = { a: 'x-1.safetensors', b: 'x-1.safetensors', c: 'x-2.safetensors' }

  it('joins the shards', async () => {
    const { tensors, bytes } = await readSharded(await writeIndex(honest))
    expect([...tensors.keys()].sort()).toEqual(['a', 'b', 'c'])
    expect(path.basename(tensors.get('c')!.file)).toBe('x-2.safetensors')
    expect(bytes).toBe(packTensors({ a: one, b: one }).length + packTensors({ c: one }).length)
  })

  it.each<[what: string, weightMap: unknown, message: RegExp]>([
    [
      'a tensor that no shard has',
      { ...honest, d: 'x-2.safetensors' },
      /tensor "d" is not in its shard "x-2.safetensors"/,
    ],
    [
      'a tensor that is in another shard',
      { ...honest, b: 'x-2.safetensors' },
      /tensor "b" is not listed for this shard/,
    ],
    ['a tensor that is not listed', { a: 'x-1.safetensors', c: 'x-2.safetensors' }, /tensor "b" is not listed/],
    ['a shard that is absent', { ...honest, d: 'x-3.safetensors' }, /x-3.safetensors: cannot be opened \(ENOENT\)/],
    ['a path upwards', { a: '../x-1.safetensors' }, /must be a .safetensors file beside the index, not "..\/x-1/],
    ['an absolute path', { a: '/etc/x.safetensors' }, /beside the index/],
    ['a path with backslashes', { a: '..\\x.safetensors' }, /beside the index/],
    ['a shard that is a number', { a: 1 }, /beside the index, not number/],
    ['another kind of file', { a: 'x.bin' }, /beside the index/],
    ['no tensors', {}, /weight_map is empty/],
    ['no weight map', undefined, /weight_map is not an object/],
  ])('refuses %s', async (_, weightMap, message) => {
    expect(await refusal(readSharded(await writeIndex(weightMap)))).toMatch(message)
  })
})
