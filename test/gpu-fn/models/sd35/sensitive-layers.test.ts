import { describe, expect, test } from 'vitest'
import { createSd35Precision } from '../../../../gpu-fn/models/sd35/precision.ts'
import { findSensitiveLayers, isSensitive } from '../../../../gpu-fn/models/sd35/sensitive-layers.ts'

const nameFc1 = (block: number, stream = 'x_block') => `joint_blocks.${block}.${stream}.mlp.fc1`
const ERRORS = { [nameFc1(0)]: 0.03, [nameFc1(1)]: 0.01, [nameFc1(2)]: 0.01, [nameFc1(3)]: 0.01 }

test('layers with a squared error above the mean are sensitive', () => {
  expect(Object.keys(ERRORS).filter((layer) => isSensitive(ERRORS, layer))).toEqual([nameFc1(0)])
  const equal = Object.fromEntries(Object.keys(ERRORS).map((layer) => [layer, 0.01]))
  expect(Object.keys(equal).some((layer) => isSensitive(equal, layer))).toBe(false)
})

describe('the layers that stay in FP8', () => {
  const blocksOf = (pattern: RegExp, depth: number) =>
    Array.from({ length: depth }, (_, block) => block).filter((block) => pattern.test(`${nameFc1(block)}.weight`))

  test('are the sensitive layers for variants with measurements', () => {
    expect(blocksOf(findSensitiveLayers('measured', { depth: 38 }, { measured: ERRORS }), 38)).toEqual([0])
  })

  test.each([
    [38, [0, 1, 35, 36, 37]],
    [24, [0, 1, 21, 22, 23]],
    [8, []],
  ])('of other networks with %d blocks are those of blocks %j', (depth, blocks) => {
    expect(blocksOf(findSensitiveLayers('another', { depth }, {}), depth)).toEqual(blocks)
  })

  test('include both MLP layers of both streams of a block', () => {
    const pattern = findSensitiveLayers('another', { depth: 38 }, {})
    for (const stream of ['x_block', 'context_block'])
      for (const layer of ['fc1', 'fc2'])
        expect(pattern.test(`joint_blocks.1.${stream}.mlp.${layer}.weight`)).toBe(true)
    for (const name of ['joint_blocks.1.x_block.mlp.fc1.bias', 'joint_blocks.1.x_block.attn.qkv.weight'])
      expect(pattern.test(name)).toBe(false)
  })
})

test('tier fp8-int4 stores all other MLP layers in 4 bits and computes all MLP products in FP8', () => {
  const precision = createSd35Precision('fp8-int4', { sensitive: findSensitiveLayers('another', { depth: 38 }, {}) })
  const storageOf = (name: string) => precision.storageOf('transformer', name, [4, 4])
  expect(storageOf('joint_blocks.0.x_block.mlp.fc1.weight')).toBe('float8e4m3fn')
  expect(storageOf('joint_blocks.2.x_block.mlp.fc1.weight')).toBe('fp8-int4')
  expect(storageOf('joint_blocks.2.context_block.mlp.fc2.weight')).toBe('fp8-int4')
  expect(storageOf('joint_blocks.2.x_block.attn.qkv.weight')).toBe('float8e4m3fn')
  expect(storageOf('joint_blocks.2.x_block.adaLN_modulation.1.weight')).toBe('int8')
  expect(storageOf('final_layer.linear.weight')).toBe('float16')
  for (const block of [0, 2])
    expect(precision.isNative('transformer', `joint_blocks.${block}.x_block.mlp.fc1.weight`)).toBe(true)
})
