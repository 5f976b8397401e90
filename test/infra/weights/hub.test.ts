import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { createNoise } from '../../../infra/checkpoints/fake-package.ts'
import { downloadCheckpoint, selectFiles } from '../../../infra/weights/hub.ts'
import { type HubStub, startHub } from '../../support/hub-stub.ts'
import { useScratch } from '../../support/scratch.ts'
import { startTroubleProxy, type Trouble, type TroubleProxy } from '../../support/weights/trouble-proxy.ts'

const scratch = useScratch()
const REPO = 'stabilityai/stable-diffusion-3.5-test'
const TOKEN = 'hf_token'
const FILES = {
  'model_index.json': 500,
  'transformer/diffusion_pytorch_model.safetensors': 400_000,
  'transformer/config.json': 300,
  'tokenizer/vocab.json': 20_000,
  'text_encoder_3/model.safetensors': 90_000,
}
const LEFT_OUT = [
  'README.md',
  'sd3.5_large.safetensors',
  'text_encoder_3/model.fp16.safetensors',
  'transformer/model.onnx',
]
const WEIGHTS = 'transformer/diffusion_pytorch_model.safetensors'

let source: string
let hub: HubStub
let proxy: TroubleProxy | undefined
beforeAll(async () => {
  source = path.join(scratch.root, 'source')
  for (const [name, bytes] of [...Object.entries(FILES), ...LEFT_OUT.map((name) => [name, 10] as const)]) {
    await mkdir(path.dirname(path.join(source, name)), { recursive: true })
    await writeFile(path.join(source, name), createNoise(bytes))
  }
  hub = await startHub(source, { repo: REPO, token: TOKEN })
})
afterAll(() => hub.close())
afterEach(() => {
  proxy?.close()
  proxy = undefined
})

type Plan = Parameters<typeof startTroubleProxy>[1]

async function fetchWith(plan: Plan = () => 'none', change: object = {}) {
  proxy = await startTroubleProxy(hub.url, plan)
  const options = { repo: REPO, token: TOKEN, hubUrl: proxy.url, stallMs: 300, pauseMs: 5, ...change }
  return downloadCheckpoint(scratch.directory, options)
}

async function expectWhole(names = Object.keys(FILES)): Promise<void> {
  const found = (await readdir(scratch.directory, { recursive: true, withFileTypes: true })).filter((each) =>
    each.isFile(),
  )
  const there = found.map((each) => path.relative(scratch.directory, path.join(each.parentPath, each.name)))
  expect(there.sort()).toEqual([...names].sort())
  for (const name of names)
    expect(
      Buffer.compare(await readFile(path.join(scratch.directory, name)), await readFile(path.join(source, name))),
    ).toBe(0)
}

test("downloads only the compiler's input files", async () => {
  await fetchWith()
  await expectWhole()
})

test('omits T5 for a tier without it', async () => {
  await fetchWith(undefined, { withoutT5: true })
  await expectWhole(Object.keys(FILES).filter((name) => !name.startsWith('text_encoder_3')))
})

test('downloads half precision if there is nothing else', () => {
  const only = [{ path: 'vae/diffusion_pytorch_model.fp16.safetensors' }, { path: 'vae/config.json' }]
  expect(selectFiles(only)).toEqual(only)
})

const createBodyPlan = (name: string, trouble: (count: number) => Trouble): Plan => {
  let replies = 0
  // The library requests the first byte to determine the size; faults apply to the body.
  return ({ path: asked, range }) => (asked.endsWith(name) && range !== 'bytes=0-0' ? trouble(replies++) : 'none')
}

test.each<Trouble>([
  { kind: 'cut', bytes: 150_000 },
  { kind: 'stall', bytes: 150_000 },
  { kind: 'short', bytes: 150_000 },
])('resumes at the last received byte after $kind', async (trouble) => {
  await fetchWith(createBodyPlan(WEIGHTS, (count) => (count === 0 ? trouble : 'none')))
  await expectWhole()
  const ranges = proxy!.requests.filter((each) => each.path.endsWith(WEIGHTS)).map(({ range }) => range)
  expect(ranges.some((range) => range?.startsWith('bytes=1') && Number(range.slice(6, 12)) > 100_000)).toBe(true)
})

test.each([
  ['the list of files', '/tree/main', { kind: 'silent' }],
  ['the body of the list', '/tree/main', { kind: 'stall', bytes: 0 }],
  ['a file', WEIGHTS, { kind: 'silent' }],
] as const)('repeats a request for %s that has no reply', { timeout: 20_000 }, async (_, part, trouble) => {
  let replies = 0
  await fetchWith(({ path: asked }) => (asked.includes(part) && replies++ === 0 ? trouble : 'none'))
  expect(replies).toBeGreaterThan(1)
  await expectWhole()
})

test('resumes in another process with the bytes of the first one', async () => {
  await mkdir(path.join(scratch.directory, 'transformer'))
  const partial = path.join(scratch.directory, `${WEIGHTS}.part`)
  await writeFile(partial, (await readFile(path.join(source, WEIGHTS))).subarray(0, 333_333))
  await fetchWith()
  await expectWhole()
  expect(proxy!.requests.some(({ range }) => range === 'bytes=333333-399999')).toBe(true)
})

test('uses a complete download without the hub if it may be reused', async () => {
  const change = { reuse: true }
  const first = await fetchWith(undefined, change)
  const none: Plan = () => {
    throw new Error('no request is expected')
  }
  expect(await fetchWith(none, change)).toEqual(first)
  await writeFile(path.join(scratch.directory, 'model_index.json'), 'shorter')
  await expect(
    downloadCheckpoint(scratch.directory, { repo: REPO, hubUrl: 'http://127.0.0.1:9', reuse: true, pauseMs: 1 }),
  ).rejects.toThrow('cannot be read from the hub')
})

test('downloads nothing twice', async () => {
  const first = await fetchWith()
  proxy!.close()
  const second = await fetchWith()
  expect(second).toEqual(first)
  expect(proxy!.requests.map((each) => each.path)).toEqual([expect.stringContaining('/tree/main')])
})

test('downloads a corrupted file again, and fails the second time', async () => {
  const flip = { kind: 'flip', bytes: 1000 } as const
  await fetchWith(createBodyPlan(WEIGHTS, (count) => (count === 0 ? flip : 'none')))
  await expectWhole()
  proxy!.close()
  const elsewhere = path.join(scratch.directory, 'again')
  proxy = await startTroubleProxy(
    hub.url,
    createBodyPlan(WEIGHTS, () => flip),
  )
  const options = { repo: REPO, token: TOKEN, hubUrl: proxy.url, pauseMs: 5 }
  await expect(downloadCheckpoint(elsewhere, options)).rejects.toThrow(
    `${WEIGHTS} of ${REPO} had a wrong checksum twice`,
  )
  expect(await stat(path.join(elsewhere, WEIGHTS)).catch(() => null)).toBeNull()
})

test('a partial download of another file does not affect the download', async () => {
  await mkdir(path.join(scratch.directory, 'transformer'))
  await writeFile(path.join(scratch.directory, `${WEIGHTS}.part`), createNoise(200_000))
  await fetchWith()
  await expectWhole()
})

test.each([
  [
    { token: undefined },
    /refuses access to .* \(401\): accept the license at .*, create a token with read access, and set HF_TOKEN/,
  ],
  [{ token: 'hf_other' }, /with this HF_TOKEN \(403\): accept the license at .* with the account of the token/],
  [{ repo: 'stabilityai/none' }, /the hub has no stabilityai\/none at main \(404\); set --repo and --revision/],
])('an error of the hub has a remedy: %j', async (change, message) => {
  await expect(fetchWith(undefined, change)).rejects.toMatchObject({
    name: 'HubError',
    message: expect.stringMatching(message),
  })
})

test('fails if the hub is unavailable, and rejects paths outside the directory', async () => {
  await expect(fetchWith(() => ({ kind: 'status', status: 503 }))).rejects.toThrow(/cannot be read from the hub/)
  const lying = await startHub(source, {
    ...{ repo: REPO, token: TOKEN },
    alterListing: (entries) =>
      entries.map((entry) => ({ ...entry, path: entry.path.replace('tokenizer/', 'tokenizer/../../') })),
  })
  const inside = path.join(scratch.directory, 'inside')
  await downloadCheckpoint(inside, { repo: REPO, token: TOKEN, hubUrl: lying.url })
  lying.close()
  expect(await readdir(scratch.directory)).toEqual(['inside'])
})

test('a truncated mark of completeness counts as none, and is replaced at once', async () => {
  const change = { reuse: true }
  const first = await fetchWith(undefined, change)
  const mark = `${scratch.directory}.complete.json`
  const whole = await readFile(mark, 'utf8')
  await writeFile(mark, whole.slice(0, 100))
  proxy!.close()
  expect(await fetchWith(undefined, change)).toEqual(first)
  expect(await readFile(mark, 'utf8')).toBe(whole)
})

test('two processes download a checkpoint to one directory', async () => {
  const cutOnce = (bytes: number): Plan => {
    let cut = false
    return ({ path: asked, range }) => {
      if (cut || !asked.endsWith(WEIGHTS) || range === 'bytes=0-0') return 'none'
      cut = true
      return { kind: 'cut', bytes }
    }
  }
  const one = await startTroubleProxy(hub.url, cutOnce(150_000))
  const other = await startTroubleProxy(hub.url, cutOnce(100_000))
  const options = { repo: REPO, token: TOKEN, stallMs: 300, pauseMs: 50 }
  const downloads = [one, other].map(({ url }) => downloadCheckpoint(scratch.directory, { ...options, hubUrl: url }))
  const ends = await Promise.allSettled(downloads)
  for (const each of [one, other]) each.close()
  expect(ends.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled'])
  await expectWhole()
})
