import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CheckpointError } from '../../../gpu-fn/compile/checkpoint/error.ts'
import type { Tensor } from '../../../gpu-fn/compile/checkpoint/tensor.ts'
import { chooseLowerings } from '../../../gpu-fn/compile/lower/lowerings.ts'
import { buildModel } from '../../../gpu-fn/models/sd35/build.ts'
import type { Sd35Network } from '../../../gpu-fn/models/sd35/names/naming.ts'
import { openCheckpoint } from '../../../gpu-fn/models/sd35/sd35.ts'
import { writeTinyCheckpoint } from '../../../infra/checkpoints/tiny/checkpoint.ts'

let scratch: string
let paths: string[]
beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-shapes-'))
  paths = [await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), { variant: 'tiny-medium' })]
})
afterAll(() => fs.rm(scratch, { recursive: true }))

/** Wrong shapes, each with an error that broadcasting or a view could hide. */
function listWrongShapes(shape: readonly number[]): number[][] {
  const longer = shape.with(-1, shape.at(-1)! + 1)
  const shorter = shape.with(0, shape[0]! - 1)
  const scalars = shape.map(() => 1)
  return [longer, shorter, scalars, [...shape, 1], [1, ...shape]].filter((wrong) => String(wrong) !== String(shape))
}

describe.each(['transformer', 'clip_l', 'clip_g', 't5', 'vae'] as const)('%s', (network: Sd35Network) => {
  test('refuses a wrong shape of any tensor', async () => {
    const checkpoint = await openCheckpoint(paths)
    const tensors = checkpoint.networks[network]!
    const accepted: string[] = []
    for (const [name, tensor] of [...tensors]) {
      for (const shape of listWrongShapes(tensor.shape)) {
        tensors.set(name, { ...tensor, shape } satisfies Tensor)
        try {
          buildModel(checkpoint, paths, { tier: 'fp8' }, chooseLowerings('cpu'))
          accepted.push(`${name} [${shape}] for [${tensor.shape}]`)
        } catch (error) {
          expect(error, `${name} [${shape}]`).toBeInstanceOf(CheckpointError)
        }
      }
      tensors.set(name, tensor)
    }
    expect(accepted).toEqual([])
  })
})
