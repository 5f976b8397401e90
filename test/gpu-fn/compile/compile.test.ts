import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readHeader } from '../../../gpu-fn/compile/checkpoint/formats/safetensors.ts'
import { writeTinyCheckpoint } from '../../../infra/checkpoints/tiny/checkpoint.ts'

const run = promisify(execFile)
const main = path.join(import.meta.dirname, '../../../gpu-fn/compile/main.ts')
let scratch: string
let checkpoint: string

type Run = { code: number; stdout: string; stderr: string }
const compile = (...flags: string[]): Promise<Run> =>
  run(process.execPath, [main, ...flags]).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error) => ({ code: error.code, stdout: error.stdout, stderr: error.stderr }),
  )

beforeAll(async () => {
  scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-compile-'))
  checkpoint = await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), { variant: 'tiny-medium' })
})
afterAll(() => fs.rm(scratch, { recursive: true }))

/** A copy of the checkpoint whose transformer file was changed. */
async function alterPackage(name: string, change: (file: string) => Promise<void>): Promise<string> {
  const copy = path.join(scratch, name)
  await fs.cp(checkpoint, copy, { recursive: true })
  await change(path.join(copy, 'transformer/diffusion_pytorch_model.safetensors'))
  return copy
}

async function rewriteHeader(file: string, change: (header: Record<string, unknown>) => void): Promise<void> {
  const bytes = await fs.readFile(file)
  const length = Number(bytes.readBigUInt64LE())
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString())
  change(header)
  const text = Buffer.from(JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(text.length))
  await fs.writeFile(file, Buffer.concat([prefix, text, bytes.subarray(8 + length)]))
}

/** Compiling fails with a message that matches, and leaves neither a package nor a partial one. */
async function expectRefusal(from: string, message: RegExp, ...flags: string[]): Promise<void> {
  const before = (await fs.readdir(scratch)).sort()
  const { code, stderr } = await compile('--checkpoint', from, '--out', path.join(scratch, 'refused'), ...flags)
  expect(stderr).toMatch(message)
  expect(stderr).not.toMatch(/\n\s+at /) // no stack trace for a user's mistake
  expect(code).toBe(1)
  expect((await fs.readdir(scratch)).sort()).toEqual(before)
}

describe('a package', () => {
  test('is byte-identical when it is compiled again, and replaces the old one', async () => {
    const [a, b] = [path.join(scratch, 'a'), path.join(scratch, 'b')]
    for (const out of [a, b, b])
      expect(await compile('--checkpoint', checkpoint, '--out', out)).toMatchObject({ code: 0 })
    const names = (await fs.readdir(a, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile())
    expect(names.length).toBeGreaterThan(15)
    for (const { parentPath, name } of names) {
      const file = path.join(path.relative(a, parentPath), name)
      expect(await fs.readFile(path.join(b, file)), file).toEqual(await fs.readFile(path.join(a, file)))
    }
  })

  test('has its tokenizers even if the checkpoint consists of links, as in a Hugging Face cache', async () => {
    const cache = path.join(scratch, 'cache')
    const linked = path.join(cache, 'snapshots/1')
    await fs.mkdir(path.join(cache, 'blobs'), { recursive: true })
    for (const [i, entry] of (await fs.readdir(checkpoint, { recursive: true, withFileTypes: true })).entries()) {
      if (!entry.isFile()) continue
      const from = path.join(entry.parentPath, entry.name)
      const to = path.join(linked, path.relative(checkpoint, from))
      const blob = path.join(cache, 'blobs', String(i))
      await fs.copyFile(from, blob)
      await fs.mkdir(path.dirname(to), { recursive: true })
      await fs.symlink(path.relative(path.dirname(to), blob), to)
    }
    const out = path.join(scratch, 'from-links')
    expect(await compile('--checkpoint', linked, '--out', out)).toMatchObject({ code: 0 })
    expect(await fs.readdir(path.join(out, 'tokenizer'))).toContain('vocab.json')
  })

  test('leaves nothing behind when it is interrupted', async () => {
    const before = (await fs.readdir(scratch)).sort()
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const child = spawn(process.execPath, [main, '--checkpoint', checkpoint, '--out', path.join(scratch, 'stopped')])
      const exited = once(child, 'exit')
      // The first line of progress comes when the package has begun to grow.
      await once(child.stderr, 'data')
      child.kill(signal)
      expect(await exited).toEqual([signal === 'SIGINT' ? 130 : 143, null])
      expect((await fs.readdir(scratch)).sort()).toEqual(before)
    }
  })

  test('removes the files of a killed process, and restores the package that it had moved', async () => {
    const out = path.join(scratch, 'swept')
    await compile('--checkpoint', checkpoint, '--out', out)
    const dead = spawn(process.execPath, ['-e', '0'])
    await once(dead, 'exit')
    await fs.rename(out, path.join(scratch, `.swept.old-${dead.pid}`))
    await fs.mkdir(path.join(scratch, `.swept.partial-${dead.pid}`))
    const again = await compile('--checkpoint', checkpoint, '--out', out)
    expect(again.code).toBe(0)
    expect((await fs.readdir(scratch)).filter((name) => name.includes('.swept.'))).toEqual([])
  })

  test.each([[['--name', 'Bad Name!'], /--name: "Bad Name!" is given; 1 to 64 of a-z, 0-9 and "-" are allowed/]])(
    'is not written with %j',
    async (flags, message) => {
      const { code, stderr } = await compile('--checkpoint', checkpoint, '--out', path.join(scratch, 'never'), ...flags)
      expect([code, stderr]).toEqual([1, expect.stringMatching(message)])
    },
  )

  test('prints its progress, its size and its peak memory', async () => {
    const { stdout, stderr } = await compile(
      '--checkpoint',
      checkpoint,
      '--out',
      path.join(scratch, 'c'),
      '--name',
      'tiny',
    )
    expect(stdout).toMatch(/tiny \(custom, fp8, cpu\) → /)
    expect(stdout).toMatch(/[\d.]+ MB read, [\d.]+ MB written in [\d.]+ s, \d+ MB\/s, \d+ MB peak memory/)
    expect(stderr).toMatch(/100% · \d+ MB\/s · 0 s left/)
  })
})

describe('a checkpoint is refused before anything is written', () => {
  test('when a weight is NaN', async () => {
    const copy = await alterPackage('nan', async (file) => {
      const tensor = (await readHeader(file)).tensors.get('transformer_blocks.0.ff.net.2.weight')!
      const handle = await fs.open(file, 'r+')
      await handle.write(new Uint8Array(Float32Array.of(Number.NaN).buffer), 0, 4, tensor.offset + 400)
      await handle.close()
    })
    await expectRefusal(copy, /tensor joint_blocks\.0\.x_block\.mlp\.fc2\.weight .*NaN/)
  })

  test('when a tensor is missing', async () => {
    const rename = (header: Record<string, unknown>) => {
      header['unknown.weight'] = header['transformer_blocks.1.ff.net.2.bias']
      delete header['transformer_blocks.1.ff.net.2.bias']
    }
    await expectRefusal(
      await alterPackage('missing', (file) => rewriteHeader(file, rename)),
      /unknown\.weight|fc2\.bias/,
    )
  })

  test('when a tensor is unused', async () => {
    const copy = await alterPackage('left-over', async (file) => {
      const { bytes } = await readHeader(file)
      const size = bytes - 8 - Number((await fs.readFile(file)).readBigUInt64LE())
      await rewriteHeader(file, (header) => {
        header['transformer_blocks.0.attn.extra.weight'] = { dtype: 'F32', shape: [1], data_offsets: [size, size + 4] }
      })
      await fs.appendFile(file, new Uint8Array(4))
    })
    await expectRefusal(copy, /transformer_blocks\.0\.attn\.extra\.weight/)
  })

  test.each([
    ['transformer', 'num_layers', 99, /transformer\/config\.json: num_layers is 99, but the tensors have \d/],
    ['transformer', 'qk_norm', null, /qk_norm is null, but the tensors have "rms_norm"/],
    ['transformer', 'dual_attention_layers', [0], /dual_attention_layers is \[0\], but the tensors have \[0,1\]/],
    ['text_encoder', 'num_attention_heads', 5, /clip_l: the width of an attention head is \d+\.\d+/],
    ['text_encoder_3', 'dense_act_fn', 'relu', /t5\/config\.json: dense_act_fn is "relu"; allowed: "gelu_new"/],
    ['vae', 'scaling_factor', null, /vae\/config\.json: scaling_factor is null; it must be a number above 0/],
    ['vae', 'mid_block_add_attention', false, /mid_block_add_attention is false, but the tensors have true/],
    ['transformer', 'sample_size', 1e308, /sample_size is 1e\+308; allowed: multiples of 2 up to \d+/],
    ['text_encoder', 'eos_token_id', 1.5, /clip_l\/config\.json: eos_token_id is 1\.5; it must be an integer/],
    [
      'text_encoder_3',
      'relative_attention_max_distance',
      -1,
      /relative_attention_max_distance is -1; it must be a number above 0/,
    ],
    ['scheduler', 'num_train_timesteps', 0, /num_train_timesteps is 0; it must be a number above 0/],
    ['scheduler', 'shift_terminal', 1, /shift_terminal is 1; it must be a number from 0 to below 1/],
    ['scheduler', 'use_dynamic_shifting', true, /scheduler_config\.json: use_dynamic_shifting is true; allowed: false/],
  ])('when %s has %s %j', async (directory, key, value, message) => {
    const copy = await alterPackage(`config-${directory}-${key}`, async (file) => {
      const name = directory === 'scheduler' ? 'scheduler_config.json' : 'config.json'
      const config = path.join(file, '../..', directory, name)
      await fs.writeFile(config, JSON.stringify({ ...JSON.parse(await fs.readFile(config, 'utf8')), [key]: value }))
    })
    await expectRefusal(copy, message)
  })

  test('when its shapes fit no variant', async () => {
    const single = await writeTinyCheckpoint(path.join(scratch, 'single'), {
      variant: 'tiny-medium',
      layout: 'single-file',
    })
    await expectRefusal(single, /matches no variant of SD3\.5; the nearest is \w+, but depth is \d+ and not \d+/)
    await expectRefusal(single, /is not large: depth is \d+ and not 38/, '--variant', 'large')
    await expectRefusal(
      single,
      /--variant: huge is unknown; allowed: large, large-turbox, large-turbo, medium, medium-turbo, flash, sd3-medium, nano, nano-turbo, nano-flash, custom/,
      '--variant',
      'huge',
    )
  })

  test('when the file is truncated', async () => {
    const copy = await alterPackage('cut', async (file) => fs.truncate(file, (await fs.stat(file)).size - 1000))
    await expectRefusal(copy, /diffusion_pytorch_model\.safetensors/)
  })

  test('when the disk is full, before or during writing', async () => {
    // A file system of its own with 2 MB, and one that another process fills up after the space was counted.
    const runOnSmallDisk = (size: string, command: string) =>
      run(
        'unshare',
        ['-rm', 'sh', '-c', `mkdir -p small && mount -t tmpfs -o size=${size} tmpfs small && ${command}; ls -A small`],
        { cwd: scratch },
      ).catch((error) => error)
    const flags = `'${process.execPath}' '${main}' --checkpoint '${checkpoint}' --out small/package`
    const before = await runOnSmallDisk('2m', flags)
    expect(before.stderr).toMatch(
      /small\/package: the disk is full: the package takes 0\.0\d+ GB and 0\.00\d GB are free/,
    )
    expect(before.stdout).toBe('')
    const filler =
      '(for i in $(seq 3000); do ls -A small | grep -q partial && break; sleep 0.01; done; head -c 11m /dev/zero > small/filler 2>/dev/null) &'
    const during = await runOnSmallDisk('12m', `${filler} ${flags} --tier fp8`)
    expect(during.stderr).toMatch(/small\/package: the disk is full; nothing was written/)
    expect(during.stdout.trim()).toBe('filler')
  })

  test('when the text encoders are missing', async () => {
    const copy = await alterPackage('no-clip', (file) =>
      fs.rm(path.join(file, '../../text_encoder_2'), { recursive: true }),
    )
    await expectRefusal(copy, /text encoders: clip_g missing: --checkpoint may be given once for each file/)
    const out = path.join(scratch, 'without')
    expect(await compile('--checkpoint', copy, '--out', out, '--allow-missing-encoders')).toMatchObject({ code: 0 })
  })

  test('when a tokenizer is missing or cannot be used', async () => {
    const missing = await alterPackage('no-tokenizer', (file) =>
      fs.rm(path.join(file, '../../tokenizer_3'), { recursive: true }),
    )
    await expectRefusal(missing, /the tokenizer of t5 is missing; --tokenizers DIR names the directory/)
    const broken = await alterPackage('bad-tokenizer', (file) =>
      fs.writeFile(path.join(file, '../../tokenizer/vocab.json'), '{'),
    )
    await expectRefusal(broken, /tokenizer: .*vocab\.json/)
    const pipe = await alterPackage('pipe', async (file) => {
      const vocabulary = path.join(file, '../../tokenizer/vocab.json')
      await fs.rm(vocabulary)
      await run('mkfifo', [vocabulary])
    })
    await expectRefusal(pipe, /vocab\.json: is not a regular file/)
    const exchanged = await alterPackage('exchanged', async (file) => {
      const folder = (name: string) => path.join(file, '../..', name)
      await fs.rm(folder('tokenizer_2'), { recursive: true })
      await fs.cp(folder('tokenizer'), folder('tokenizer_2'), { recursive: true })
    })
    await expectRefusal(
      exchanged,
      /tokenizer_2: is not the tokenizer of CLIP-G: it pads with <\|endoftext\|> instead of !/,
    )
  })

  test('when the output directory belongs to another program, despite its manifest.json', async () => {
    const out = path.join(scratch, 'web-app')
    await fs.mkdir(path.join(out, 'src'), { recursive: true })
    await fs.writeFile(path.join(out, 'manifest.json'), '{"name": "app"}')
    await fs.writeFile(path.join(out, 'src/thesis.txt'), 'ten years of work')
    const refused = await compile('--checkpoint', checkpoint, '--out', out)
    expect(refused.stderr).toMatch(/web-app: contains src\/thesis\.txt, which is not part of a package/)
    expect(await fs.readdir(out)).toEqual(['manifest.json', 'src'])
  })

  test('when the output directory contains other files', async () => {
    const out = path.join(scratch, 'mine')
    await fs.mkdir(out)
    await fs.writeFile(path.join(out, 'diary.txt'), 'dear diary')
    const { code, stderr } = await compile('--checkpoint', checkpoint, '--out', out)
    expect(code).toBe(1)
    expect(stderr).toMatch(/mine: contains diary\.txt, which is not part of a package/)
    expect(await fs.readdir(out)).toEqual(['diary.txt'])
  })
})
