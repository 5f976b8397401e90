// Checkpoints in the forms in which they are published, each with the image that the reference code generates from the same weights.
import { cp, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { type CompileOptions, compile } from '../../../../gpu-fn/compile/compile.ts'
import { writeTinyCheckpoint } from '../../../../infra/checkpoints/tiny/checkpoint.ts'
import { type RenderRequest, render, withPipeline } from '../../../../infra/local/models/render.ts'
import { compareDifferences, readPixels } from '../../../../infra/receipts/compare-images.ts'
import {
  createHalves,
  editJson,
  readStoredTensors,
  renameAll,
  rewriteTensors,
  type Tensors,
  toOpenClip,
  widen,
  writeStoredTensors,
} from '../../../support/checkpoints/edit.ts'
import { useScratch } from '../../../support/scratch.ts'

type Golden = Required<Pick<RenderRequest, 'prompt' | 'seed' | 'width' | 'height' | 'steps' | 'guidance_scale'>> & {
  name: string
}

const GOLDEN = path.join(import.meta.dirname, '../../../golden')
const requests: Golden[] = JSON.parse(await readFile(path.join(GOLDEN, 'pipeline/cases.json'), 'utf8'))
const requestOf = (name: string): RenderRequest => {
  const { prompt, seed, width, height, steps, guidance_scale } = requests.find((request) => request.name === name)!
  return { prompt, seed, width, height, steps, guidance_scale }
}

const scratch = useScratch()
const resolvePath = (...names: string[]) => path.join(scratch.directory, ...names)
/** tiny-medium, in the diffusers layout unless a test replaces it. */
let base: string
beforeEach(async () => {
  base = await writeTinyCheckpoint(resolvePath('base'), { variant: 'tiny-medium' })
})

const WITH_T5 = 'medium-unguided'
const WITHOUT_T5 = 'medium-no-t5-unguided'

type ExpectedResult = { golden?: string; request?: string } & Partial<CompileOptions>

/** Compiles the paths, compares the image with the golden one, and returns the notes. */
async function expectImage(
  paths: string[],
  { golden, request = WITH_T5, ...options }: ExpectedResult = {},
): Promise<string[]> {
  const notes: string[] = []
  const compiled = await compile({
    ...{ checkpoint: paths, out: resolvePath('package'), tier: 'fp32', target: 'cpu', variant: 'custom' },
    onNote: (note) => notes.push(note),
    ...options,
  })
  const image = await withPipeline(resolvePath('package'), (pipeline) => render(pipeline, requestOf(request)))
  const expected = await readPixels(path.join(GOLDEN, golden ?? `pipeline/${request}.png`))
  expect(compareDifferences(await readPixels(image), expected).largest).toBeLessThanOrEqual(2)
  return [...notes, ...compiled.notes]
}

/** Two shards of a folder's weights, without an index. */
async function writeShards(folder: string, stem: string, variant: string): Promise<string[]> {
  const file = path.join(folder, `${stem}.safetensors`)
  const parts = createHalves(await readStoredTensors(file))
  await rm(file)
  return Promise.all(
    parts.map((tensors, i) =>
      writeStoredTensors(path.join(folder, `${stem}${variant}-0000${i + 1}-of-00002.safetensors`), tensors),
    ),
  )
}

const TRANSFORMER = 'transformer/diffusion_pytorch_model.safetensors'

describe('a directory with missing files', () => {
  it('uses the shift of its variant without a scheduler', async () => {
    await rm(resolvePath('base/scheduler'), { recursive: true })
    expect(await expectImage([base])).toContain('No scheduler_config.json: shift 3, that of custom.')
  })

  it('uses the published values without any config.json', async () => {
    for (const folder of ['transformer', 'text_encoder', 'text_encoder_2', 'text_encoder_3', 'vae'])
      await rm(resolvePath('base', folder, 'config.json'))
    const notes = await expectImage([base])
    expect(notes.filter((note) => note.includes('has no config.json'))).toHaveLength(5)
  })

  it('keeps the configurations of the base if the fine-tune has none', async () => {
    const other = await writeTinyCheckpoint(resolvePath('other'), { variant: 'tiny-medium', seed: 1 })
    await cp(path.join(base, 'transformer'), resolvePath('fine-tune/transformer'), { recursive: true })
    await rm(resolvePath('fine-tune/transformer/config.json'))
    await cp(path.join(other, TRANSFORMER), path.join(base, TRANSFORMER))
    const notes = await expectImage([base, resolvePath('fine-tune')])
    expect(notes).toContain(
      `${resolvePath('fine-tune', TRANSFORMER)}: its transformer replaces that of ${path.join(base, TRANSFORMER)}, whose config.json applies.`,
    )
    expect(notes.join('\n')).not.toContain('No scheduler_config.json')
  })

  it('can be combined with a fine-tuned transformer from a separate folder', async () => {
    await rename(path.join(base, 'transformer'), resolvePath('my-fine-tune'))
    await expectImage([base, resolvePath('my-fine-tune')])
  })
})

describe('T5', () => {
  it('is omitted if model_index.json lists it as null', async () => {
    await editJson(path.join(base, 'model_index.json'), { text_encoder_3: [null, null] })
    const notes = await expectImage([base], { request: WITHOUT_T5 })
    expect(notes).toContain('Without T5, 256 rows of zeros take its place, as in diffusers.')
  })

  it.each(['present', 'absent'])('is omitted by --omit-t5 if it is %s', async (state) => {
    if (state === 'absent') await rm(path.join(base, 'text_encoder_3'), { recursive: true })
    await expectImage([base], { request: WITHOUT_T5, omitT5: true })
  })

  it('is read without its decoder', async () => {
    const file = path.join(base, 'text_encoder_3/model.safetensors')
    await rewriteTensors(file, resolvePath('t5.safetensors'), (tensors) => ({
      ...tensors,
      'decoder.block.0.layer.0.SelfAttention.q.weight': tensors['encoder.block.0.layer.0.SelfAttention.q.weight']!,
      'decoder.final_layer_norm.weight': tensors['encoder.final_layer_norm.weight']!,
      'lm_head.weight': tensors['shared.weight']!,
    }))
    await rm(path.join(base, 'text_encoder_3'), { recursive: true })
    expect(await expectImage([base, resolvePath('t5.safetensors')])).toContain(
      `${resolvePath('t5.safetensors')}: T5; single-file layout, F32.`,
    )
  })
})

describe('CLIP', () => {
  it('is read without its vision tower, with the configuration of its text tower', async () => {
    const folder = path.join(base, 'text_encoder_2')
    const file = path.join(folder, 'model.safetensors')
    await rewriteTensors(file, file, (tensors) => ({
      ...tensors,
      logit_scale: { dtype: 'F32', shape: [] },
      'visual_projection.weight': { dtype: 'F32', shape: [128, 64] },
      'vision_model.encoder.layers.0.mlp.fc1.weight': { dtype: 'F32', shape: [256, 64] },
    }))
    const config = JSON.parse(await readFile(path.join(folder, 'config.json'), 'utf8'))
    await writeFile(
      path.join(folder, 'config.json'),
      JSON.stringify({
        model_type: 'clip',
        projection_dim: 128,
        text_config: config,
        vision_config: { hidden_size: 64 },
      }),
    )
    await expectImage([base])
  })

  it('is read under the names of OpenCLIP, with its projection transposed', async () => {
    const file = path.join(base, 'text_encoder_2/model.safetensors')
    await rewriteTensors(file, resolvePath('open_clip_g.safetensors'), (tensors) => ({
      ...toOpenClip(tensors),
      logit_scale: { dtype: 'F32', shape: [] },
      'visual.proj': { dtype: 'F32', shape: [64, 128] },
    }))
    await rm(path.join(base, 'text_encoder_2'), { recursive: true })
    await expectImage([base, resolvePath('open_clip_g.safetensors')])
  })

  it('has a projection for CLIP-L in a directory, but not in a single file', async () => {
    const file = await writeTinyCheckpoint(resolvePath('single'), { variant: 'tiny-medium', layout: 'single-file' })
    await expectImage([file], { golden: `pipeline/${WITH_T5}.single-file.png` })
    await cp(path.join(base, 'text_encoder/model.safetensors'), resolvePath('clip_l.safetensors'))
    await expectImage([base, resolvePath('clip_l.safetensors')], { golden: `pipeline/${WITH_T5}.single-file.png` })
    await expectImage([file, path.join(base, 'text_encoder')])
  })
})

describe('files of weights', () => {
  it('are read in the only complete variant: fp16 shards beside the index of full precision', async () => {
    const folder = path.join(base, 'text_encoder_3')
    const tensors = await readStoredTensors(path.join(folder, 'model.safetensors'))
    const weightMap = Object.fromEntries(Object.keys(tensors).map((name) => [name, 'model-00001-of-00001.safetensors']))
    await writeFile(path.join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }))
    await writeShards(folder, 'model', '.fp16')
    expect(await expectImage([base])).toContain(
      `${folder}: variant fp16 is read, because "model.safetensors.index.json" lists "model-00001-of-00001.safetensors", which are missing.`,
    )
  })

  it.each(['bf16', 'my_variant-2'])('are read in the variant %s', async (variant) => {
    const file = path.join(base, TRANSFORMER)
    await rename(file, file.replace('.safetensors', `.${variant}.safetensors`))
    expect(await expectImage([base])).toContain(`${path.join(base, 'transformer')}: variant ${variant} is read.`)
  })

  it('are read as shards without an index', async () => {
    await writeShards(path.join(base, 'transformer'), 'diffusion_pytorch_model', '')
    await expectImage([base])
  })

  it.each(['model.diffusion_model.', 'diffusion_model.', 'model.', 'module.', 'transformer.'])(
    'are read with the prefix %s',
    async (prefix) => {
      const file = path.join(base, TRANSFORMER)
      await rewriteTensors(file, resolvePath('x.safetensors'), (tensors) => renameAll(tensors, (name) => prefix + name))
      await rm(path.join(base, 'transformer'), { recursive: true })
      await expectImage([base, resolvePath('x.safetensors')])
    },
  )

  it('are read with a position table in F64 and without its first axis', async () => {
    const file = path.join(base, TRANSFORMER)
    const change = (tensors: Tensors) => {
      const { shape, ...table } = widen(tensors['pos_embed.pos_embed']!)
      return { ...tensors, 'pos_embed.pos_embed': { ...table, shape: shape.slice(1) } }
    }
    await rewriteTensors(file, file, change)
    await expectImage([base])
  })

  it('use the adjacent config.json if it belongs to their folder', async () => {
    await rename(path.join(base, 'vae'), resolvePath('vae'))
    await editJson(resolvePath('vae/config.json'), { scaling_factor: 0.9 })
    await expectImage([base, resolvePath('vae/diffusion_pytorch_model.safetensors')], {
      golden: 'checkpoints/vae-factors.png',
    })
  })

  it('are read with an uppercase extension, through links, and from a folder without a config.json', async () => {
    const file = await writeTinyCheckpoint(resolvePath('single'), { variant: 'tiny-medium', layout: 'single-file' })
    await rename(file, resolvePath('single/TINY.SAFETENSORS'))
    await mkdir(resolvePath('links'))
    await symlink(resolvePath('single/TINY.SAFETENSORS'), resolvePath('links/TINY.SAFETENSORS'))
    await expectImage([resolvePath('links/TINY.SAFETENSORS')], {
      golden: `pipeline/${WITH_T5}.single-file.png`,
      tokenizers: base,
    })
  })
})

describe('tokenizers', () => {
  it('are read from the same place as their encoders', async () => {
    const later = await writeTinyCheckpoint(resolvePath('later'), { variant: 'tiny-medium' })
    const file = path.join(base, 'tokenizer/vocab.json')
    const vocabulary: Record<string, number> = JSON.parse(await readFile(file, 'utf8'))
    const words = Object.keys(vocabulary).filter((token) => /^[a-z]+<\/w>$/.test(token))
    const rotated = words.map((word, i) => [word, vocabulary[words[(i + 1) % words.length]!]!])
    await writeFile(file, JSON.stringify({ ...vocabulary, ...Object.fromEntries(rotated) }))
    await expectImage([base, later])
    await expectImage([path.join(later, 'transformer'), later])
  })
})

describe('weights of zeros', () => {
  it('cause a note, because they are typical of an interrupted download', async () => {
    const file = path.join(base, TRANSFORMER)
    const bytes = await readFile(file)
    await writeFile(file, bytes.fill(0, bytes.length / 2))
    const { notes } = await compile({ checkpoint: [base], out: resolvePath('package'), tier: 'fp8', target: 'cpu' })
    expect(notes.at(-1)).toMatch(/^Warning: .* have blocks of zeros\. Compare the SHA-256 of .*diffusion_pytorch_model/)
  })

  it('cause no note if they are biases', async () => {
    const createZeroTensors = (tensors: Tensors): Tensors =>
      Object.fromEntries(
        Object.entries(tensors).map(([name, stored]) => [
          name,
          name.endsWith('.bias') ? { ...stored, data: stored.data.map(() => 0) } : stored,
        ]),
      )
    await rewriteTensors(path.join(base, TRANSFORMER), path.join(base, TRANSFORMER), createZeroTensors)
    const { notes } = await compile({ checkpoint: [base], out: resolvePath('package'), tier: 'fp8', target: 'cpu' })
    expect(notes.join()).not.toMatch('zeros')
  })
})

type Edit = { name: string; file: string; key: string; value?: unknown }
const edits: Edit[] = JSON.parse(await readFile(path.join(GOLDEN, 'checkpoints/cases.json'), 'utf8'))

describe('a changed setting produces the same image as diffusers and transformers', () => {
  it.each(edits)('$name', async ({ name, file, key, value }) => {
    await editJson(path.join(base, file), { [key]: value })
    await expectImage([base], { golden: `checkpoints/${name}.png` })
  })
})
