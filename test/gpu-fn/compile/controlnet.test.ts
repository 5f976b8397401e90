import { readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { compileControlnet } from '../../../gpu-fn/compile/controlnet.ts'
import { findControlnets, openControlnet } from '../../../gpu-fn/weights/additions/controlnet-packages.ts'
import { createTinyControlnet, writeTinyControlnet } from '../../../infra/checkpoints/tiny/controlnet.ts'
import { refusal } from '../../support/checkpoints/refusal.ts'
import type { TensorContent } from '../../support/checkpoints/safetensors-file.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
/** Its attention heads are 64 wide, as in Stability's files, which do not state the width. */
const variant = 'tiny-medium'

/** Stability's file, with changes; an undefined tensor is left out. */
async function writeStability(changes: Record<string, TensorContent | undefined> = {}, name = 'net.safetensors') {
  const tensors = createTinyControlnet({ variant }).tensors.map(({ name, shape, data }): [string, TensorContent] => [
    name,
    { dtype: 'F32', shape, data: new Uint8Array(data.buffer) },
  ])
  const entries = Object.entries({ ...Object.fromEntries(tensors), ...changes })
  await scratch.write(name, Object.fromEntries(entries.filter((entry): entry is [string, TensorContent] => !!entry[1])))
  return path.join(scratch.directory, name)
}

const createTyped = (value: number): Record<string, TensorContent> => ({
  control_type: { dtype: 'I64', shape: [], data: Uint8Array.of(value, 0, 0, 0, 0, 0, 0, 0) },
})

const compile = (controlnet: string, options: Partial<Parameters<typeof compileControlnet>[0]> = {}) =>
  compileControlnet({
    ...{ controlnet, out: path.join(scratch.directory, 'controlnets', 'out'), tier: 'fp32', target: 'cpu' },
    ...options,
  })

test("Stability's file and diffusers' directory compile to the same package", async () => {
  const own = await compile(await writeStability(createTyped(2)), {
    name: 'net',
    out: path.join(scratch.directory, 'a'),
  })
  const directory = await writeTinyControlnet(path.join(scratch.directory, 'diffusers'), { variant })
  const other = await compile(directory, { name: 'net', type: 'depth', out: path.join(scratch.directory, 'b') })
  expect(other.manifest).toEqual(own.manifest)
  expect(own.manifest).toMatchObject({
    type: 'depth',
    shape: { layers: 2, width: 128, channels: 16, pooled_width: 192 },
  })
  expect(own.notes).toContain('Type depth: stated by the file.')
})

test('the type is also read from the name, and FP8 halves the blocks', async () => {
  const full = await compile(await writeStability({}, 'sd3.5_large_canny.safetensors'))
  expect(full.manifest).toMatchObject({ name: 'sd3-5-large-canny', type: 'canny' })
  const [found] = await findControlnets(scratch.directory)
  expect(found!.manifest).toEqual(full.manifest)
  const small = await compile(await writeStability({}, 'sd3.5_large_canny.safetensors'), { tier: 'fp8' })
  const listBytes = (name: string) => [full, small].map(({ manifest }) => manifest.files[name]!.bytes)
  const [before, after] = listBytes('control.weights')
  expect(after!).toBeLessThan(before! * 0.6)
})

test('target cuda-fp8 has a batched step graph, and one without kernels', async () => {
  const { manifest } = await compile(await writeStability(createTyped(0)), { tier: 'fp8', target: 'cuda-fp8' })
  const [found] = await findControlnets(scratch.directory)
  expect(found!.manifest).toEqual(manifest)
  const { control } = manifest.networks
  const substitute = manifest.without_kernels!.control
  expect(substitute.weights).toBe(control.weights)
  const batchOf = ({ inputs }: typeof control) => inputs.find(({ name }) => name === 'tokens')!.shape[0]
  expect([control, substitute].map(batchOf)).toEqual(['B', 1])
})

test('the ID of a directory includes the part of its name after a dot', async () => {
  const name = 'stable-diffusion-3.5-large-controlnet-depth'
  const directory = await writeTinyControlnet(path.join(scratch.directory, name), { variant })
  expect((await compile(directory)).manifest).toMatchObject({ name: name.replace('.', '-'), type: 'depth' })
})

const square: TensorContent = { dtype: 'F32', shape: [128, 128] }
test.each<[string, Record<string, TensorContent | undefined>, object, RegExp]>([
  ['an unknown type', {}, {}, /does not state its type, .*--control-type blur, canny, depth, other/],
  ['a wrong type', createTyped(2), { type: 'canny' }, /--control-type: canny is given, but .* states that it is depth/],
  ['a type out of range', createTyped(7), {}, /tensor "control_type" must be an integer: 0 blur, 1 canny, 2 depth/],
  [
    'a missing tensor',
    { 'controlnet_blocks.1.weight': undefined, ...createTyped(0) },
    {},
    /controlnet_blocks.1.weight is missing/,
  ],
  ['a tensor without a use', { 'extra.weight': square, ...createTyped(0) }, {}, /unexpected tensors .*extra\.weight/],
  [
    'a text stream',
    { 'transformer_blocks.0.attn.add_q_proj.weight': square, ...createTyped(0) },
    {},
    /another kind: its blocks have a text stream .*SD3.5 Large: blur, canny and depth/,
  ],
  [
    'an embedder of its own',
    { 'pos_embed.proj.weight': square, ...createTyped(0) },
    {},
    /another kind: it embeds the latent/,
  ],
  [
    'the target cuda-fp8 in 16 bits',
    createTyped(0),
    { target: 'cuda-fp8', tier: 'fp16' },
    /tier fp16 has none; choose cuda/,
  ],
])('refuses %s', async (_, changes, options, message) => {
  expect(await refusal(compile(await writeStability(changes), options))).toMatch(message)
})

test('a configuration that does not match the network is refused', async () => {
  const directory = await writeTinyControlnet(path.join(scratch.directory, 'net'), { variant })
  const file = path.join(directory, 'config.json')
  const config = JSON.parse(await readFile(file, 'utf8'))
  await writeFile(file, JSON.stringify({ ...config, force_zeros_for_pooled_projection: true }))
  expect(await refusal(compile(directory, { type: 'blur' }))).toMatch(/force_zeros_for_pooled_projection is true/)
})

test('a package whose manifest lists a missing file is refused', async () => {
  const { manifest } = await compile(await writeStability(createTyped(1)))
  expect(manifest.type).toBe('canny')
  const directory = path.join(scratch.directory, 'controlnets', 'out')
  await rm(path.join(directory, 'control.weights'))
  await expect(openControlnet(directory)).rejects.toThrow(/control\.weights is missing/)
})
