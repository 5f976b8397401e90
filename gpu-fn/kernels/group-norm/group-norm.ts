// GroupNorm of feature maps after adding the deferred bias and skip: [B, C, H, W] here, [B, H, W, C] in the kernel.
import type { Value } from '../../compile/graph/graph.ts'
import type { FeatureMap } from '../../compile/graph/layer-types.ts'
import * as ops from '../../compile/graph/ops.ts'
import { groupNormOfPlanes } from '../../compile/lower/cpu.ts'
import type { Fp8Operators } from '../../compile/lower/cuda-fp8.ts'
import type { Tensor } from '../../runtime/session.ts'
import { type Case, createNoise, editTensor, HALVES } from '../definition/test-case.ts'

function applyDeferred({ value, deferred }: FeatureMap): Value {
  if (!deferred) return value
  const biased = ops.add(value, ops.reshape(deferred.bias, [value.shape[1]!, 1, 1]))
  return deferred.skip ? ops.add(deferred.skip, biased) : biased
}

export const definition: Pick<Fp8Operators, 'applyDeferred' | 'groupNorm'> = {
  applyDeferred,
  groupNorm(map, weight, bias, options) {
    const sum = applyDeferred(map)
    return { map: sum, normed: groupNormOfPlanes(sum, weight, bias, options) }
  },
}

const MAP: [number, number, number, number] = [1, 128, 6, 10]

type Maps = { groups?: number; bias?: boolean; skip?: boolean; silu?: boolean; keep?: boolean; map?: Tensor }

function caseOf(name: string, dims: [number, number, number, number], options: Maps = {}): Case {
  const { groups = 32, bias = true, skip = true, silu = true, keep = true, map = createNoise(dims, 13, 4) } = options
  const channels = [dims[1]]
  return {
    name: `GroupNorm ${name} [${dims.join(', ')}] in ${groups} groups`,
    tolerance: HALVES,
    inputs: {
      ...{ map, weight: createNoise(channels, 14), bias: createNoise(channels, 15) },
      ...(bias && { deferredBias: createNoise(channels, 16, 5) }),
      ...(skip && { skip: createNoise(dims, 17, 2) }),
    },
    build(inputs, operators, half, layout) {
      const mapOf = (name: string) => layout.featureMap(half(inputs[name]!))
      const deferred = { bias: inputs.deferredBias!, ...(skip && { skip: mapOf('skip') }) }
      const map: FeatureMap = { value: mapOf('map'), ...(bias && { deferred }) }
      const result = operators.groupNorm(map, inputs.weight!, inputs.bias!, { groups, epsilon: 1e-6, silu, keep })
      const planes = (x: Value) => ops.cast(layout.planes(x), 'float32')
      return { normed: planes(result.normed), ...(keep && { sum: planes(result.map) }) }
    },
  }
}

export const cases: readonly Case[] = [
  caseOf("of the autoencoder's last level", [1, 128, 96, 160]),
  caseOf('of its first, two samples', [2, 512, 20, 9]),
  caseOf('without a skip', MAP, { skip: false, keep: false }),
  caseOf('with nothing deferred', MAP, { bias: false, skip: false, silu: false }),
  caseOf('that keeps no sum', [1, 256, 17, 3], { keep: false }),
  // Without the sum: its rounding to float16 is large relative to the difference of two nearly equal channels of a group.
  caseOf('of one pixel', [3, 64, 1, 1], { keep: false }),
  caseOf('of 24 channels', [1, 24, 33, 31], { groups: 3 }),
  caseOf('far from zero', MAP, {
    map: editTensor(createNoise(MAP, 13, 0.5), (data) => {
      data.forEach((x, i) => {
        data[i] = x + 500
      })
    }),
    bias: false,
    skip: false,
  }),
  caseOf('with a value that is not a number', MAP, {
    map: editTensor(createNoise(MAP, 13), (data) => {
      data[777] = Number.NaN
    }),
    keep: false,
  }),
]
