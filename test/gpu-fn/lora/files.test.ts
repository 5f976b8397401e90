import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { CheckpointError } from '../../../gpu-fn/compile/checkpoint/error.ts'
import { compileLora } from '../../../gpu-fn/compile/lora/lora.ts'
import { updatesOf } from '../../../gpu-fn/engine/package/adapters.ts'
import type { Package } from '../../../gpu-fn/manifest.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import { updateFile } from '../../../gpu-fn/runtime/update/in-file.ts'
import { findLoras, openLora } from '../../../gpu-fn/weights/additions/lora-packages.ts'
import { openPackage, PackageError } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { createSeededRandom, type Header, mutate, mutateBytes } from '../../support/checkpoints/mutate.ts'
import { refusal } from '../../support/checkpoints/refusal.ts'
import { packHeader, type TensorContent } from '../../support/checkpoints/safetensors-file.ts'
import { compileTestLora } from '../../support/lora.ts'
import { LORAS } from '../../support/lora-outputs.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
let pkg: Package
beforeAll(async () => {
  pkg = await openPackage(await compileTiny({ tier: 'fp8' }))
})

const [Q, WIDTH, RANK] = ['transformer.transformer_blocks.0.attn.to_q', 128, 2]
const createFloats = (shape: number[], value = 0.5): TensorContent => {
  const count = shape.reduce((product, axis) => product * axis, 1)
  return { dtype: 'F32', shape, data: new Uint8Array(new Float32Array(count).fill(value).buffer) }
}
const createPair = (module = Q, [n, k] = [WIDTH, WIDTH]) => ({
  [`${module}.lora_A.weight`]: createFloats([RANK, k!]),
  [`${module}.lora_B.weight`]: createFloats([n!, RANK]),
})

const pairOf = (value: number) => ({
  [`${Q}.lora_A.weight`]: createFloats([RANK, WIDTH], value),
  [`${Q}.lora_B.weight`]: createFloats([WIDTH, RANK], value),
})

async function compileTensors(tensors: Record<string, TensorContent>, metadata?: Record<string, string>) {
  await scratch.write('lora.safetensors', tensors, metadata)
  const lora = path.join(scratch.directory, 'lora.safetensors')
  return compileLora({ lora, base: pkg.manifest, out: path.join(scratch.directory, 'out') })
}

describe('a LoRA is refused with its name', () => {
  test.each<[string, Record<string, TensorContent>, RegExp]>([
    [
      'DoRA of PEFT',
      { ...createPair(), [`${Q}.lora_magnitude_vector`]: createFloats([WIDTH]) },
      /"\S+lora_magnitude_vector" belongs to a DoRA/,
    ],
    [
      'DoRA of LyCORIS',
      { ...createPair(), [`${Q}.dora_scale`]: createFloats([WIDTH, 1]) },
      /"\S+dora_scale" belongs to a DoRA/,
    ],
    [
      'LoKr',
      { [`${Q}.lokr_w1`]: createFloats([4, 4]), [`${Q}.lokr_w2`]: createFloats([32, 32]) },
      /"\S+to_q\.lokr_w\d" belongs to a LoKr \(LyCORIS\)/,
    ],
    ['LoHa', { [`${Q}.hada_w1_a`]: createFloats([WIDTH, 2]) }, /"\S+to_q\.hada_w1_a" belongs to a LoHa \(LyCORIS\)/],
    ['OFT', { [`${Q}.oft_blocks`]: createFloats([4, 4]) }, /"\S+oft_blocks" belongs to an OFT or BOFT adapter/],
    ['GLoRA', { [`${Q}.a1.weight`]: createFloats([2, WIDTH]) }, /"\S+a1\.weight" belongs to a GLoRA/],
    [
      'Tucker',
      { ...createPair(), [`${Q}.lora_mid.weight`]: createFloats([2, 2]) },
      /"\S+lora_mid\.weight" belongs to a LoCon with a Tucker/,
    ],
    ['IA3', { [`${Q}.ia3_l`]: createFloats([WIDTH]) }, /"\S+ia3_l" belongs to an adapter of PEFT that is not a LoRA/],
    ['a whole weight', { ...createPair(), [`${Q}.diff`]: createFloats([WIDTH, WIDTH]) }, /an update of a whole weight/],
    [
      'a norm',
      { ...createPair(), [`${Q}.w_norm`]: createFloats([WIDTH]) },
      /"\S+w_norm" belongs to an update of a whole weight/,
    ],
    ['a bias', { ...createPair(), [`${Q}.lora_B.bias`]: createFloats([WIDTH]) }, /an update of a bias/],
    ['a textual inversion', { ...createPair(), 'bundle_emb.cat.clip_l': createFloats([1, 64]) }, /a textual inversion/],
    [
      'other keys',
      { ...createPair(), 'transformer.note': createFloats([1]) },
      /"transformer.note" is not a key of a LoRA/,
    ],
    [
      'unknown modules',
      { ...createPair(), ...createPair('transformer.transformer_blocks.9.attn.to_q') },
      /has no modules for "transformer\.transformer_blocks\.9\.attn\.to_q\.lora_B\.weight"/,
    ],
    ['FLUX', createPair('transformer.single_transformer_blocks.0.attn.to_q'), /these are names of FLUX/],
    ['SDXL', createPair('lora_unet_down_blocks_1_attentions_0_proj_in'), /names of Stable Diffusion 1\.5 or XL/],
    ['one matrix', { [`${Q}.lora_A.weight`]: createFloats([RANK, WIDTH]) }, /has no up \(B\) matrix/],
    [
      'an alpha alone',
      { ...createPair(), 'transformer.transformer_blocks.1.attn.to_q.alpha': createFloats([]) },
      /has no low-rank matrix/,
    ],
    [
      'another width',
      createPair(Q, [WIDTH, 96]),
      /is \[2, 96\]; \S+ requires \[rank, 128\]\. The LoRA is of another model/,
    ],
    ['another height', createPair(Q, [96, WIDTH]), /is \[96, 2\]; \S+ requires \[128, 2\]/],
    [
      'two ranks',
      { ...createPair(), [`${Q}.lora_B.weight`]: createFloats([WIDTH, 3]) },
      /requires \[128, 2\] with the rank of/,
    ],
    [
      'no rank',
      { [`${Q}.lora_A.weight`]: createFloats([0, WIDTH]), [`${Q}.lora_B.weight`]: createFloats([WIDTH, 0]) },
      /its rank must be 1 to 4096/,
    ],
    [
      'NaN',
      { ...createPair(), [`${Q}.lora_A.weight`]: createFloats([RANK, WIDTH], Number.NaN) },
      /contains NaN or infinity/,
    ],
    [
      'integers',
      { ...createPair(), [`${Q}.lora_A.weight`]: { dtype: 'I32', shape: [RANK, WIDTH] } },
      /is I32; matrices of a LoRA are F32, F16, BF16/,
    ],
    ['an alpha of two numbers', { ...createPair(), [`${Q}.alpha`]: createFloats([2]) }, /an alpha is one float/],
    [
      'an infinite alpha',
      { ...createPair(), [`${Q}.alpha`]: createFloats([], Number.POSITIVE_INFINITY) },
      /an alpha is a number from 0/,
    ],
    [
      'an excessive alpha',
      { ...createPair(), [`${Q}.alpha`]: createFloats([], 3e38) },
      /has scale \S+: its update can exceed/,
    ],
    ['excessive matrices', pairOf(1e20), /its update can exceed 65504, the maximum of float16/],
    [
      'two spellings',
      { ...createPair(), ...createPair('lora_transformer_transformer_blocks_0_attn_to_q') },
      /are the same module/,
    ],
    [
      'fused and split',
      { ...createPair(), ...createPair('joint_blocks.0.x_block.attn.qkv', [3 * WIDTH, WIDTH]) },
      /are the same module/,
    ],
    ['no effect', createPair('transformer.transformer_blocks.2.attn.to_add_out'), /no module with an effect/],
    ['nothing', {}, /has no tensors/],
  ])('%s', async (_, tensors, message) => {
    expect(await refusal(compileTensors(tensors))).toMatch(message)
  })

  test('if it is for SD3 Medium, with equal names and shapes', async () => {
    const compiled = compileTensors(createPair(), { 'modelspec.architecture': 'stable-diffusion-3-medium/lora' })
    expect(await refusal(compiled)).toMatch(/was trained for "stable-diffusion-3-medium\/lora" by its metadata/)
  })

  test('if it is a DoRA by the metadata of PEFT', async () => {
    const metadata = { lora_adapter_metadata: JSON.stringify({ 'transformer.use_dora': true, 'transformer.r': 2 }) }
    expect(await refusal(compileTensors(createPair(), metadata))).toMatch(/is a DoRA \(use_dora of transformer\)/)
  })
})

test.each(['1e308', '1e999'])('a LoRA with lora_alpha %s is refused', async (alpha) => {
  const metadata = {
    lora_adapter_metadata: `{"transformer.lora_alpha": ${alpha}, "transformer.r": 2}`,
  }
  expect(await refusal(compileTensors(createPair(), metadata))).toMatch(/its update can exceed|must be a number/)
})

test('an oversized adapter_config.json, or a directory of this name, is refused', async () => {
  await scratch.write('lora.safetensors', createPair())
  const lora = path.join(scratch.directory, 'lora.safetensors')
  const beside = path.join(scratch.directory, 'adapter_config.json')
  const compileToRefusal = () =>
    refusal(compileLora({ lora, base: pkg.manifest, out: path.join(scratch.directory, 'out') }))
  await writeFile(beside, `{"r": 2${' '.repeat(1_000_001)}}`)
  expect(await compileToRefusal()).toMatch(/adapter_config\.json/)
  await rm(beside)
  await mkdir(beside)
  expect(await compileToRefusal()).toMatch(/adapter_config\.json/)
})

test('parts without effect are noted', async () => {
  const { notes } = await compileTensors({
    ...createPair(),
    ...createPair('transformer.transformer_blocks.2.attn.to_add_out'),
  })
  expect(notes).toEqual([
    expect.stringMatching(/^Without effect, .*"transformer\.transformer_blocks\.2\.attn\.to_add_out\.lora_B/),
  ])
})

test('damaged files are refused or compiled, and never crash', async () => {
  const random = createSeededRandom(19)
  const honest = await readFile(path.join(LORAS, 'onetrainer.safetensors'))
  const length = Number(honest.readBigUInt64LE())
  const header = JSON.parse(honest.toString('utf8', 8, 8 + length)) as Header
  const pack = (json: string, length?: bigint) => Buffer.concat([packHeader(json, 0, length), data])
  const data = honest.subarray(8 + length)
  const file = path.join(scratch.directory, 'lora.safetensors')
  const out = path.join(scratch.directory, 'out')
  let refused = 0
  for (let i = 0; i < 60; i++) {
    await writeFile(file, i % 2 === 0 ? mutate(random, header, pack) : mutateBytes(random, honest))
    await compileLora({ lora: file, base: pkg.manifest, out }).catch((error) => {
      if (!(error instanceof CheckpointError)) throw error
      refused++
    })
  }
  expect(refused).toBeGreaterThan(40)
})

test('damaged packages are refused', async () => {
  const directory = (await compileTestLora(path.join(LORAS, 'kohya.safetensors'), pkg.directory)).directory
  const manifest = JSON.parse(await readFile(path.join(directory, 'manifest.json'), 'utf8'))
  const [first] = manifest.modules
  for (const change of [
    { format: 99 },
    { factors: 'absent' },
    { factors: '../secret' },
    { modules: [{ ...first, rows: [5, 5] }] },
    { modules: [{ ...first, rank: 1e6 }] },
    { modules: [{ ...first, up: { ...first.up, offset: 1e9 } }] },
    { files: { ...manifest.files, '/etc/passwd': { bytes: 1, sha256: 'a'.repeat(64) } } },
  ]) {
    await writeFile(path.join(directory, 'manifest.json'), JSON.stringify({ ...manifest, ...change }))
    await expect(openLora(directory)).rejects.toBeInstanceOf(PackageError)
  }
  expect(await findLoras(path.join(directory, 'nothing'))).toEqual([])
})

test('a convolution with its channels last has the same update', async () => {
  const cuda = await openPackage(await compileTiny({ tier: 'fp8', target: 'cuda' }))
  const createConvolution = async (base: Package) => {
    const lora = await compileTestLora(path.join(LORAS, 'everything.safetensors'), base.directory)
    const updates = updatesOf(base, [{ lora, scale: 1 }]).get('transformer')!
    const name = base.manifest.networks.transformer!.weights!
    const weights = { file: path.join(base.directory, name), tensors: base.manifest.weights[name]! }
    const bytes = await updateFile(weights, updates, (file) => openSession(file, { target: 'cpu' }))
    const { shape, offset } = weights.tensors.find(({ name }) => name === 'x_embedder.proj.weight')!
    const count = shape.reduce((product, axis) => product * axis, 1)
    return { shape, values: new Uint16Array(bytes.buffer, offset, count) }
  }
  const [first, last] = [await createConvolution(pkg), await createConvolution(cuda)]
  const [, channels, height, width] = first.shape as [number, number, number, number]
  expect(last.shape).toEqual([first.shape[0], height, width, channels])
  const area = height * width
  const moved = first.values.map((_, at) => {
    const [row, place] = [Math.floor(at / (channels * area)), at % (channels * area)]
    return first.values[row * channels * area + (place % channels) * area + Math.floor(place / channels)]!
  })
  expect(last.values).toEqual(moved)
})
