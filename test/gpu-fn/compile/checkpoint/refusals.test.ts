// Checkpoints that would produce a different image without an error: each is refused, with the file and what to do.
import { cp, rename, rm, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type CompileOptions, compile } from '../../../../gpu-fn/compile/compile.ts'
import { writeTinyCheckpoint } from '../../../../infra/checkpoints/tiny/checkpoint.ts'
import {
  createHalves,
  editJson,
  readStoredTensors,
  rewriteTensors,
  writeStoredTensors,
} from '../../../support/checkpoints/edit.ts'
import { refusal } from '../../../support/checkpoints/refusal.ts'
import { useScratch } from '../../../support/scratch.ts'

const scratch = useScratch()
let original: string
beforeAll(async () => {
  original = await writeTinyCheckpoint(path.join(scratch.root, 'tiny'), { variant: 'tiny-medium' })
})
/** A copy of tiny-medium. */
let base: string
beforeEach(async () => {
  base = path.join(scratch.directory, 'base')
  await cp(original, base, { recursive: true })
})
const resolvePath = (...names: string[]) => path.join(base, ...names)

const expectRefusal = async (
  message: string | RegExp,
  paths: string[] = [base],
  options: Partial<CompileOptions> = {},
) =>
  expect(
    await refusal(
      compile({
        ...{ checkpoint: paths, out: path.join(scratch.directory, 'package'), tier: 'fp32', target: 'cpu' },
        ...{ variant: 'custom', ...options },
      }),
    ),
  ).toMatch(message)

describe('a network in model_index.json is refused if it', () => {
  it.each<[state: string, replace: (folder: string) => Promise<void>, message: RegExp]>([
    [
      'is absent',
      async () => {},
      /t5 missing: .*--omit-t5 compiles without T5.*model_index\.json lists text_encoder_3, but there is no /,
    ],
    ['is a broken link', (folder) => symlink('nowhere', folder), /text_encoder_3: is a broken link/],
    ['is a file', (folder) => writeFile(folder, 'a file'), /text_encoder_3: is not a folder/],
  ])('%s', async (_, replace, message) => {
    await rm(resolvePath('text_encoder_3'), { recursive: true })
    await replace(resolvePath('text_encoder_3'))
    await expectRefusal(message)
  })

  it('is missing, even without a model_index.json', async () => {
    await rm(resolvePath('text_encoder_3'), { recursive: true })
    await rm(resolvePath('model_index.json'))
    await expectRefusal(/t5 missing: --checkpoint may be given once for each file; --omit-t5 compiles without T5/)
  })

  it.each(['transformer', 'vae'])('is %s', async (folder) => {
    await rm(resolvePath(folder), { recursive: true })
    await expectRefusal(
      new RegExp(`has no ${folder}\\. .*model_index\\.json lists ${folder}, but there is no .*${folder}`),
    )
  })

  it('is CLIP, listed as null', async () => {
    await editJson(resolvePath('model_index.json'), { text_encoder: [null, null] })
    await expectRefusal(/clip_l missing: .*clip_l is listed as null/)
  })

  it('belongs to another pipeline', async () => {
    await editJson(resolvePath('model_index.json'), { _class_name: 'FluxPipeline' })
    await expectRefusal(/model_index\.json: _class_name is "FluxPipeline"; allowed: \^StableDiffusion3/)
  })
})

describe('misplaced files are refused:', () => {
  it('CLIP-L and CLIP-G in swapped folders', async () => {
    await rename(resolvePath('text_encoder'), resolvePath('x'))
    await rename(resolvePath('text_encoder_2'), resolvePath('text_encoder'))
    await rename(resolvePath('x'), resolvePath('text_encoder_2'))
    await expectRefusal(/clip_l is wider \(128\) than clip_g \(64\): the files of the two are swapped/)
  })

  it('CLIP-L and CLIP-G under swapped names, identified by their published widths', async () => {
    const embedding = { 'text_model.embeddings.token_embedding.weight': { dtype: 'F16', shape: [5, 1280] } }
    await writeStoredTensors(resolvePath('text_encoder/model.safetensors'), embedding)
    await expectRefusal(/has the tensors of CLIP-G, and its folder is that of CLIP-L/)
  })

  it('a VAE in the folder of the transformer', async () => {
    await cp(
      resolvePath('vae/diffusion_pytorch_model.safetensors'),
      resolvePath('transformer/diffusion_pytorch_model.safetensors'),
    )
    await expectRefusal(
      /transformer\/diffusion_pytorch_model\.safetensors: has the tensors of VAE, and its folder is that of transformer/,
    )
  })

  it('a text encoder with more positions than 77', async () => {
    const file = resolvePath('text_encoder/model.safetensors')
    const table = { dtype: 'F32', shape: [248, 64], data: new Uint8Array(248 * 64 * 4) }
    await rewriteTensors(file, file, (tensors) => ({
      ...tensors,
      'text_model.embeddings.position_embedding.weight': table,
    }))
    await expectRefusal(/clip_l: has 248 positions; the text encoders of SD3\.5 have 77/)
  })

  it('a scheduler that is a broken link', async () => {
    await rm(resolvePath('scheduler/scheduler_config.json'))
    await symlink('nowhere', resolvePath('scheduler/scheduler_config.json'))
    await expectRefusal(/scheduler_config\.json: is a broken link/)
  })

  it('a scheduler folder that is a broken link or a file', async () => {
    await rm(resolvePath('scheduler'), { recursive: true })
    await symlink('nowhere', resolvePath('scheduler'))
    await expectRefusal(/scheduler: is a broken link/)
    await rm(resolvePath('scheduler'))
    await writeFile(resolvePath('scheduler'), 'x')
    await expectRefusal(/scheduler: is not a folder/)
  })

  it('a web page as a config.json', async () => {
    await writeFile(resolvePath('vae/config.json'), '<!DOCTYPE html><html>')
    await expectRefusal(/vae\/config\.json: is a web page .*accept its license/)
  })
})

describe('incomplete or ambiguous weights are refused:', () => {
  it('only moving averages', async () => {
    const file = path.join(scratch.directory, 'ema.safetensors')
    await writeStoredTensors(file, { 'model_ema.diffusion_modelpos_embed': { dtype: 'F32', shape: [4] } })
    await expectRefusal(/has only moving averages \(model_ema\.…\).*use the file with the weights/, [file])
  })

  it('one shard of two, by itself and in its folder', async () => {
    const file = resolvePath('transformer/diffusion_pytorch_model.safetensors')
    const [first] = createHalves(await readStoredTensors(file))
    await rm(file)
    const shard = await writeStoredTensors(
      resolvePath('transformer/diffusion_pytorch_model-00001-of-00002.safetensors'),
      first,
    )
    await expectRefusal(/is one of 2 shards; give its folder or its \.safetensors\.index\.json/, [shard])
    await expectRefusal(
      /its weights are incomplete: ".*-00001-of-00002\.safetensors" is a shard of 2, of which these are missing: 2/,
    )
  })

  it('shards with two different totals and no index', async () => {
    const file = resolvePath('vae/diffusion_pytorch_model.safetensors')
    const parts = createHalves(await readStoredTensors(file))
    await rm(file)
    await writeStoredTensors(resolvePath('vae/diffusion_pytorch_model-00001-of-00002.safetensors'), parts[0])
    await writeStoredTensors(resolvePath('vae/diffusion_pytorch_model-00002-of-00003.safetensors'), parts[1])
    await expectRefusal(/vae: its weights are incomplete: .* is a shard of 2, and there are shards of 3/)
  })

  it('several variants with unknown names', async () => {
    const file = resolvePath('vae/diffusion_pytorch_model.safetensors')
    for (const name of ['ema', 'non_ema']) await cp(file, file.replace('.safetensors', `.${name}.safetensors`))
    await rm(file)
    await expectRefusal(/vae: has the variants "ema", "non_ema" and none of full precision/)
  })

  it('a single file and its shards, because diffusers and transformers would read different ones', async () => {
    const parts = createHalves(await readStoredTensors(resolvePath('transformer/diffusion_pytorch_model.safetensors')))
    const shardOf = (i: number) => resolvePath(`transformer/diffusion_pytorch_model-0000${i}-of-00002.safetensors`)
    await writeStoredTensors(shardOf(1), parts[0])
    await writeStoredTensors(shardOf(2), parts[1])
    await expectRefusal(/transformer: has the same weights twice, as "diff.*model\.safetensors" and as ".*-00001-of/)
  })

  it('a directory of single files', async () => {
    const directory = path.join(scratch.directory, 'downloads')
    await writeStoredTensors(path.join(directory, 'sd3.5_large.safetensors'), { a: { dtype: 'F32', shape: [1] } })
    await expectRefusal(/It has the files "sd3\.5_large\.safetensors": give the path of a file/, [directory])
  })

  it('files other than weights', async () => {
    await rename(resolvePath('vae/diffusion_pytorch_model.safetensors'), resolvePath('vae/diffusion_pytorch_model.bin'))
    await expectRefusal(
      /vae: has no weights: none of diffusion_pytorch_model\.safetensors.*it has "config\.json", "diffusion_pytorch_model\.bin"/,
    )
  })
})

describe('a config.json', () => {
  it.each<[file: string, key: string, value: unknown, message: RegExp]>([
    ['vae/config.json', 'scaling_factor', undefined, /vae\/config\.json: scaling_factor is missing/],
    ['vae/config.json', 'shift_factor', undefined, /vae\/config\.json: shift_factor is missing/],
    ['vae/config.json', 'latents_mean', [0.1], /latents_mean is \[0\.1\]; allowed: null/],
    ['vae/config.json', 'latent_channels', 4, /latent_channels is 4, but the tensors have 16/],
    [
      'vae/config.json',
      'block_out_channels',
      [32],
      /block_out_channels is \[32\], but the tensors have \[32,32,64,64\]/,
    ],
    ['transformer/config.json', 'pos_embed_max_size', 96, /pos_embed_max_size is 96, but the tensors have 24/],
    ['text_encoder/config.json', 'hidden_act', 'relu', /hidden_act is "relu"; allowed: "quick_gelu"/],
    ['text_encoder/config.json', 'projection_dim', 512, /projection_dim is 512, but the tensors have 64/],
    ['text_encoder_2/config.json', 'intermediate_size', 100, /intermediate_size is 100, but the tensors have 512/],
    [
      'text_encoder_3/config.json',
      'feed_forward_proj',
      undefined,
      /feed_forward_proj is "relu"; allowed: "gated-gelu"/,
    ],
    ['text_encoder_3/config.json', 'd_ff', 1, /d_ff is 1, but the tensors have 320/],
  ])('%s with %s %j', async (file, key, value, message) => {
    await editJson(resolvePath(file), { [key]: value })
    await expectRefusal(message)
  })
})
