// Adapters of `npm run serve`: compiled for the served packages, and offered for compatible models and tiers.
import { cp, mkdir, readdir, symlink } from 'node:fs/promises'
import path from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import { findLoras } from '../../../../gpu-fn/weights/additions/lora-packages.ts'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { checkLoras, serveLoras } from '../../../../infra/local/models/served-loras.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'
import { refusal } from '../../../support/checkpoints/refusal.ts'
import { compileTestLora, writeRandomLora } from '../../../support/lora.ts'
import { LORAS } from '../../../support/lora-outputs.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
const resolveFile = (name: string) => path.join(LORAS, `${name}.safetensors`)
let base: string
let served: string
/** Serves one package. Both tiny models are named `custom`, and only the second one has the shapes of `peft`. */
beforeEach(async () => {
  base = await compileTiny({ tier: 'fp8' })
  served = path.join(scratch.directory, 'packages')
  await mkdir(served)
  await symlink(base, path.join(served, 'custom-fp8'))
})

test('files and compiled adapters are offered under their file names, for compatible models and tiers', async () => {
  const compiled = await compileTestLora(resolveFile('everything'), base, 'all-layers')
  const renamed = path.join(scratch.directory, 'My Style_v2.safetensors')
  await cp(resolveFile('kohya'), renamed)
  await checkLoras([renamed, compiled.directory])
  expect(await serveLoras([renamed, compiled.directory], served)).toEqual([
    { id: 'my-style-v2', models: ['custom:fp8'] },
    { id: 'all-layers', models: ['custom:fp8'] },
  ])
  expect((await findLoras(served)).map(({ manifest }) => manifest.name)).toEqual(['all-layers', 'my-style-v2'])
})

test('a file is compiled for the matching package, even if it is not the first one', async () => {
  await symlink(await compileTiny({ variant: 'tiny-large', tier: 'fp32' }), path.join(served, 'other-fp32'))
  const peft = path.join(LORAS, 'peft/adapter_model.safetensors')
  expect(await serveLoras([peft], served)).toEqual([{ id: 'adapter-model', models: ['custom:fp32'] }])
})

test('an adapter for MLP weights is not offered in a tier with 4-bit MLPs', async () => {
  await symlink(await compileTiny({ tier: 'fp8-int4' }), path.join(served, 'custom-fp8-int4'))
  const attention = path.join(scratch.directory, 'attention.safetensors')
  await writeRandomLora(attention, (await openPackage(base)).manifest.position.width, {
    rank: 4,
    blocks: 1,
    dtype: 'F32',
  })
  expect(await serveLoras([resolveFile('kohya'), attention], served)).toEqual([
    { id: 'kohya', models: ['custom:fp8'] },
    { id: 'attention', models: ['custom:fp8', 'custom:fp8-int4'] },
  ])
})

test('the list is empty without adapters', async () => {
  expect(await serveLoras([], served)).toEqual([])
  expect(await findLoras(served)).toEqual([])
})

test('an adapter of another model is refused with the name of the key or of the weight', async () => {
  const peft = path.join(LORAS, 'peft/adapter_model.safetensors')
  expect(await refusal(serveLoras([peft], served))).toMatch(/base_model\.model\.\S+.* The LoRA is of another model/)
  expect(await readdir(path.join(served, 'loras'))).toEqual([])
  const compiled = await compileTestLora(peft, await compileTiny({ variant: 'tiny-large', tier: 'fp32' }), 'other')
  await expect(serveLoras([compiled.directory], served)).rejects.toThrow(/^lora other updates transformer /)
})

test('duplicate adapter names, a missing file and a directory without a package are refused', async () => {
  const copy = path.join(scratch.directory, 'kohya.safetensors')
  await cp(resolveFile('kohya'), copy)
  await expect(serveLoras([resolveFile('kohya'), copy], served)).rejects.toThrow('two of the given adapters are kohya')
  await expect(checkLoras(['absent.safetensors'])).rejects.toThrow('--lora absent.safetensors: no such file')
  await expect(checkLoras([LORAS])).rejects.toThrow(/a directory without manifest\.json; name a safetensors file/)
})
