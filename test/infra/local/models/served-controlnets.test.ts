// ControlNets of `npm run serve`: compiled for the served packages, and offered for compatible models.
import { mkdir, symlink } from 'node:fs/promises'
import path from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import { findControlnets } from '../../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { writeTinyControlnet } from '../../../../infra/checkpoints/tiny/controlnet.ts'
import { checkControlnets, serveControlnets } from '../../../../infra/local/models/served-controlnets.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { compileTinyControlnet } from '../../../support/checkpoints/controlnet.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
const options = { tier: 'fp32', target: 'cpu' } as const
let served: string
beforeEach(async () => {
  served = path.join(scratch.directory, 'packages')
  await mkdir(served)
  await symlink(await compileTiny({ variant: 'tiny-large' }), path.join(served, 'custom-fp32'))
})

test('checkpoints and compiled ControlNets are offered for compatible models', async () => {
  const checkpoint = await writeTinyControlnet(path.join(scratch.directory, 'Edges_canny'))
  const compiled = path.join(scratch.directory, 'depth')
  await compileTinyControlnet(compiled, { type: 'depth' })
  await checkControlnets([checkpoint, compiled])
  expect(await serveControlnets([checkpoint, compiled], served, options)).toEqual([
    { id: 'edges-canny', models: ['custom'] },
    { id: 'depth', models: ['custom'] },
  ])
  const found = await findControlnets(served)
  expect(found.map(({ manifest: { name, type } }) => [name, type])).toEqual([
    ['depth', 'depth'],
    ['edges-canny', 'canny'],
  ])
})

test.each(['cuda', 'cuda-fp8'] as const)('checkpoints are compiled for packages of target %s', async (target) => {
  const packages = path.join(scratch.directory, target)
  await mkdir(packages)
  await symlink(await compileTiny({ variant: 'tiny-large', tier: 'fp8', target }), path.join(packages, 'custom-fp8'))
  const checkpoint = await writeTinyControlnet(path.join(scratch.directory, 'canny'))
  const offers = await serveControlnets([checkpoint], packages, { tier: 'fp8', target })
  expect(offers).toEqual([{ id: 'canny', models: ['custom'] }])
})

test('missing, duplicate and incompatible ControlNets are refused', async () => {
  await expect(checkControlnets(['absent'])).rejects.toThrow('--controlnet absent: no such file or directory')
  const compiled = path.join(scratch.directory, 'depth')
  await compileTinyControlnet(compiled, { type: 'depth' })
  await expect(serveControlnets([compiled, compiled], served, options)).rejects.toThrow('two of the given ControlNets')
  const other = path.join(scratch.directory, 'other')
  await compileTinyControlnet(other, { type: 'depth', variant: 'tiny-medium' })
  await expect(serveControlnets([other], served, options)).rejects.toThrow('controlnet other does not fit custom')
})
