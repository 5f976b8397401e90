import { execFileSync } from 'node:child_process'
import { cp, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { readTokenizers, type TokenizerOptions } from '../../../../gpu-fn/compile/write/tokenizers.ts'
import { describeText, TOKENS } from '../../../../gpu-fn/models/sd35/text-encoders.ts'
import { parseTokenizer } from '../../../../gpu-fn/tokenizer/tokenizer.ts'
import golden from '../../../golden/tokenizer.json' with { type: 'json' }
import { refusal } from '../../../support/checkpoints/refusal.ts'
import { useScratch } from '../../../support/scratch.ts'

const TINY = path.join(import.meta.dirname, '../../../../infra/checkpoints/tiny/tokenizers')
const scratch = useScratch()
const clip = { width: 2, pooledWidth: 2, tokens: 77 }
const { encoders } = describeText(
  { clip_l: clip, clip_g: clip, t5: { graphs: ['t5'] } },
  { contextWidth: 8, pooledWidth: 4 },
)
const createVocabularies = (rows: number) =>
  new Map(Object.entries(TOKENS).map(([name, tokens]) => [name, { rows, ...tokens }] as const))

let directory: string
beforeEach(async () => {
  directory = path.join(scratch.directory, 'tokenizers')
  await cp(TINY, directory, { recursive: true })
})

const resolvePath = (...names: string[]) => path.join(directory, ...names)
const read = (options: TokenizerOptions = { tokenizers: directory }, rows = 1000) =>
  readTokenizers(encoders, createVocabularies(rows), { tokenizers: {} }, options)

test('a package contains only the tokenizer files that define its tokenizers', async () => {
  await writeFile(resolvePath('tokenizer', 'id_rsa'), 'a secret')
  await writeFile(resolvePath('tokenizer', 'tokenizer.model'), 'a secret')
  const { files, notes } = await read()
  expect([...files.keys()].sort()).toEqual([
    ...['merges.txt', 'special_tokens_map.json', 'tokenizer_config.json', 'vocab.json'].map(
      (name) => `tokenizer/${name}`,
    ),
    ...['merges.txt', 'special_tokens_map.json', 'tokenizer_config.json', 'vocab.json'].map(
      (name) => `tokenizer_2/${name}`,
    ),
    ...['special_tokens_map.json', 'tokenizer.json', 'tokenizer_config.json'].map((name) => `tokenizer_3/${name}`),
  ])
  expect(notes).toEqual([])
})

test('spiece.model alone is part of the package, and its ids are those of tokenizer.json', async () => {
  const whole = await read()
  for (const name of ['tokenizer.json', 'special_tokens_map.json']) await rm(resolvePath('tokenizer_3', name))
  const { files } = await read()
  expect([...files.keys()].filter((name) => name.startsWith('tokenizer_3'))).toEqual([
    'tokenizer_3/tokenizer_config.json',
    'tokenizer_3/spiece.model',
  ])
  const idsOf = (from: typeof files) => {
    const own = [...from].filter(([name]) => name.startsWith('tokenizer_3/'))
    const sources = new Map(own.map(([name, content]) => [name.slice('tokenizer_3/'.length), content])) as never
    return golden.cases.map(({ text }) => parseTokenizer('tokenizer_3', sources).tokenizer.encode(text).ids)
  }
  expect(idsOf(files)).toEqual(idsOf(whole.files))
}, 60_000)

describe('a tokenizer of another encoder is refused', () => {
  test.each([
    ['tokenizer_2', 'tokenizer', /is not the tokenizer of CLIP-G: it pads with <\|endoftext\|> instead of !/],
    ['tokenizer', 'tokenizer_2', /is not the tokenizer of CLIP-L: it pads with ! instead of <\|endoftext\|>/],
    [
      'tokenizer_3',
      'tokenizer',
      /is not the tokenizer of T5: it begins prompts with <\|startoftext\|> instead of nothing/,
    ],
    ['tokenizer', 'tokenizer_3', /is not the tokenizer of CLIP-L: it begins prompts with nothing instead of <\|start/],
  ])('in %s that of %s', async (to, from, message) => {
    await rm(resolvePath(to), { recursive: true })
    await cp(path.join(TINY, from), resolvePath(to), { recursive: true })
    expect(await refusal(read())).toMatch(message)
  })

  test('with fewer ids than the published encoder', async () => {
    expect(await refusal(read(undefined, 49_408))).toMatch(/CLIP-L: it has 1000 ids instead of 49408/)
  })
})

test('ids beyond the embeddings of an encoder are noted', async () => {
  expect((await read(undefined, 999)).notes[0]).toMatch('The tokenizer of clip_l has ids beyond its 999 embeddings')
})

describe('files of an incomplete or wrong download are refused', () => {
  const LFS_POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 791656\n'
  const halfOf = async (file: string) =>
    (await readFile(resolvePath(file), 'utf8')).slice(0, 2000).replace(/[^\n]*$/, '')
  const without = async (token: string) => {
    const vocabulary = JSON.parse(await readFile(resolvePath('tokenizer/vocab.json'), 'utf8'))
    expect(vocabulary).toHaveProperty([token])
    delete vocabulary[token]
    return JSON.stringify(vocabulary)
  }
  test.each<[string, string, () => string | Promise<string>, RegExp]>([
    [
      'some of the merges',
      'tokenizer_2/merges.txt',
      () => halfOf('tokenizer_2/merges.txt'),
      /tokenizer_2: no merge results in the tokens "man<\/w>", .* and 210 more: a file is truncated/,
    ],
    ['no merges', 'tokenizer/merges.txt', () => '#version: 0.2\n', /tokenizer: no merge results in the tokens/],
    ['an empty file', 'tokenizer/merges.txt', () => '', /merges\.txt: is empty: .*download it again/],
    ['a web page', 'tokenizer/merges.txt', () => '<!doctype html>', /merges\.txt: is a web page .*accept its license/],
    [
      'a vocabulary without the result of a merge',
      'tokenizer/vocab.json',
      () => without('man</w>'),
      /tokenizer: the vocabulary lacks the results of merges "man<\/w>"/,
    ],
    ['a pointer of Git LFS', 'tokenizer/vocab.json', () => LFS_POINTER, /vocab\.json: is a Git LFS pointer/],
    ['a pointer in place of the definition', 'tokenizer_3/spiece.model', () => LFS_POINTER, /git lfs pull/],
  ])('%s', async (_, file, content, message) => {
    await writeFile(resolvePath(file), await content())
    expect(await refusal(read())).toMatch(message)
  })
})

test('merges with Windows line endings equal those with line feeds', async () => {
  const idsOf = ({ files }: Awaited<ReturnType<typeof read>>) => {
    const own = [...files].filter(([name]) => name.startsWith('tokenizer/'))
    const sources = new Map(own.map(([name, content]) => [path.basename(name), content])) as never
    return golden.cases.map(({ text }) => parseTokenizer('tokenizer', sources).tokenizer.encode(text).ids)
  }
  const expected = idsOf(await read())
  const merges = await readFile(resolvePath('tokenizer', 'merges.txt'), 'utf8')
  await writeFile(resolvePath('tokenizer', 'merges.txt'), merges.replaceAll('\n', '\r\n'))
  expect(idsOf(await read())).toEqual(expected)
}, 60_000)

describe('hostile files are refused', () => {
  test('a pipe, at once', async () => {
    await rm(resolvePath('tokenizer', 'vocab.json'))
    execFileSync('mkfifo', [resolvePath('tokenizer', 'vocab.json')])
    expect(await refusal(read())).toMatch(/vocab\.json: is not a regular file/)
  })

  test('links to files outside', async () => {
    const secret = path.join(scratch.directory, 'secret')
    await writeFile(secret, await readFile(resolvePath('tokenizer', 'merges.txt')))
    await rm(resolvePath('tokenizer', 'merges.txt'))
    await symlink(secret, resolvePath('tokenizer', 'merges.txt'))
    expect(await refusal(read())).toMatch(/merges\.txt: is a link to .*secret, outside of its directory; copy the file/)
  })

  const createNumbered = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`t${i}`, i]))
  const createT5 = async (change: (definition: Record<string, never>) => void) => {
    const definition = JSON.parse(await readFile(resolvePath('tokenizer_3', 'tokenizer.json'), 'utf8'))
    change(definition)
    return JSON.stringify(definition)
  }
  const createPattern = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Removed', invert: false })
  test.each<[string, string, () => string | Promise<string>, RegExp]>([
    ['two million merges', 'tokenizer/merges.txt', () => 'a b\n'.repeat(1_900_000), /has more than 131072 entries/],
    ['a huge file', 'tokenizer/merges.txt', () => 'a b\n'.repeat(2_100_000), /8400000 bytes; at most 8000000/],
    [
      'half a million values',
      'tokenizer/vocab.json',
      () => JSON.stringify(createNumbered(410_000)),
      /more than 400000 entries/,
    ],
    [
      'negative ids',
      'tokenizer/vocab.json',
      () => '{"<|startoftext|>": -2, "a": 1}',
      /vocab\.json is not a tokenizer file/,
    ],
    [
      'enormous ids',
      'tokenizer/vocab.json',
      () => '{"<|startoftext|>": 4294967295}',
      /vocab\.json is not a tokenizer file/,
    ],
    [
      'a text for merges',
      'tokenizer/merges.txt',
      () => 'root:x:0:0:a b c\n',
      /merges\.txt: the line "root:x:0:0:a b c" is not two/,
    ],
    [
      'an exponential pattern',
      'tokenizer_3/tokenizer.json',
      () => createT5((json) => Object.assign(json, { pre_tokenizer: createPattern('(a+)+$') })),
      /the pre_tokenizer of tokenizer\.json has the unknown pattern {"Regex":"\(a\+\)\+\$"}/,
    ],
    [
      'an exponential pattern deep inside',
      'tokenizer_3/tokenizer.json',
      () =>
        createT5((json) => {
          const normalizers = [{ type: 'Replace', pattern: { Regex: '(a|a)*b' }, content: ' ' }]
          Object.assign(json, { normalizer: { type: 'Sequence', normalizers: [{ type: 'Sequence', normalizers }] } })
        }),
      /the normalizer of tokenizer\.json has the unknown pattern/,
    ],
    [
      'a replacement that multiplies the prompt',
      'tokenizer_3/tokenizer.json',
      () =>
        createT5((json) =>
          Object.assign(json, { normalizer: { type: 'Replace', pattern: { String: 'a' }, content: 'aa'.repeat(1e6) } }),
        ),
      /replaces text by more than one character/,
    ],
  ])('%s', async (_, file, content, message) => {
    await writeFile(resolvePath(file), await content())
    const before = process.memoryUsage().rss
    expect(await refusal(read())).toMatch(message)
    expect(process.memoryUsage().rss - before).toBeLessThan(300e6)
  })

  test('terminal controls in names are escaped', async () => {
    await writeFile(resolvePath('tokenizer', 'merges.txt'), '\u001b[32mcompile: all is well\u001b[0m \u202e\u0085 x\n')
    const message = await refusal(read())
    expect(message).not.toMatch(/[\p{Cc}\p{Cf}]/u)
    expect(message).toContain('\\u001b[32mcompile: all is well')
  })
})

describe('--tokenizers hub', () => {
  const REVISIONS = {
    'openai/clip-vit-large-patch14': ['32bd64288804d66eefd0ccbe215aa642df71cc41', 'tokenizer'],
    'google/t5-v1_1-xxl': ['3db67ab1af984cf10548a73467f0e5bca2aaaeb2', 'tokenizer_3'],
  } as const

  /** A hub with the two repositories at the revisions in use, over the tiny tokenizers, which have fewer tokens. */
  async function startHub(): Promise<string> {
    const server = http.createServer(async (request, response) => {
      const found = Object.entries(REVISIONS).find(([repo, [revision]]) =>
        request.url!.startsWith(`/${repo}/resolve/${revision}/`),
      )
      const content =
        found && (await readFile(path.join(directory, found[1][1], path.basename(request.url!))).catch(() => null))
      if (!content) return response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
      const [, from = '0', to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
      const part = content.subarray(Number(from), to ? Number(to) + 1 : undefined)
      const range = `bytes ${from}-${Number(from) + part.length - 1}/${content.length}`
      response.writeHead(206, { etag: '"e"', 'content-length': part.length, 'content-range': range }).end(part)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => {
      server.closeAllConnections()
      server.close()
    })
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  test('downloads the tokenizers of SD3.5, with the ids of its repository', async () => {
    const hub = await startHub()
    const { files, notes } = await read({ tokenizers: 'hub', hub }, 1100)
    expect(notes).toEqual([])
    const own = await read()
    for (const [k, { tokenizer }] of encoders.entries()) {
      const open = (from: typeof files) =>
        parseTokenizer(
          tokenizer,
          new Map(
            [...from].flatMap(([name, bytes]) =>
              name.startsWith(`${tokenizer}/`) ? [[path.basename(name), bytes]] : [],
            ),
          ) as never,
        )
      const [fetched, repository] = [open(files), open(own.files)]
      expect(fetched.padId).toBe(golden.pads[k])
      for (const { text } of golden.cases.filter(({ text }) => !text.includes('<extra_id_')))
        expect(fetched.tokenizer.encode(text).ids, JSON.stringify(text)).toEqual(repository.tokenizer.encode(text).ids)
    }
  }, 60_000)

  test('fails with the repository and advice', async () => {
    const hub = await startHub()
    await mkdir(resolvePath('empty'))
    await rm(resolvePath('tokenizer', 'vocab.json'))
    expect(await refusal(read({ tokenizers: 'hub', hub }))).toMatch(
      /hub: openai\/clip-vit-large-patch14\/vocab\.json: (does not exist|cannot be fetched)/,
    )
    expect(await refusal(read({ tokenizers: 'hub', hub: 'http://127.0.0.1:9' }))).toMatch(
      /cannot be fetched .*; --tokenizers DIR names a directory/,
    )
    expect(await refusal(read({}))).toMatch(/the tokenizer of clip_l is missing; .* --tokenizers hub fetches/)
  })
})
