import { execFile } from 'node:child_process'
import { copyFile, glob, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = path.join(import.meta.dirname, '../..')
const biome = path.join(root, 'node_modules/.bin/biome')
const tsc = path.join(root, 'node_modules/.bin/tsc')

/** A tree with the project's rules and none of its files. */
let scratch: string
beforeAll(async () => {
  scratch = await mkdtemp(path.join(tmpdir(), 'octet-boundaries-'))
  await copyFile(path.join(root, 'biome.json'), path.join(scratch, 'biome.json'))
})
afterAll(() => rm(scratch, { recursive: true }))

/** Writes files to the scratch tree and lints one of them; returns its violations as `rule: line`. */
async function lint(files: Record<string, string>, linted: string): Promise<string[]> {
  for (const [file, source] of Object.entries(files)) {
    await mkdir(path.join(scratch, path.dirname(file)), { recursive: true })
    await writeFile(path.join(scratch, file), source)
  }
  const rules = ['style/noRestrictedImports', 'suspicious/noImportCycles'].map((rule) => `--only=${rule}`)
  const flags = ['--vcs-enabled=false', ...rules, '--reporter=json']
  const { stdout } = await promisify(execFile)(biome, ['lint', ...flags, linted], { cwd: scratch }).catch(
    (error) => error,
  )
  const { diagnostics } = JSON.parse(stdout) as {
    diagnostics: { category: string; location: { start: { line: number } } }[]
  }
  return diagnostics.map(({ category, location }) => `${category.split('/').at(-1)}: ${location.start.line}`)
}

/** Lints a file with these imports at this place; returns which of them break a boundary. */
async function findViolations(directory: string, imports: string[]): Promise<string[]> {
  const file = path.join(directory, 'boundary.ts')
  const lines = imports.map((name, i) => `import x${i} from '${name}'\nconsole.log(x${i})\n`)
  const found = await lint({ [file]: lines.join('') }, file)
  return found.map((each) => imports[(Number(each.split(': ')[1]) - 1) / 2]!)
}

test.each([
  [
    'edge',
    ['#contract', './auth/keys.ts', 'hono'],
    ['../gpu-fn/pipeline/denoise.ts', '../infra/operator/keys.ts', 'node:fs'],
  ],
  ['edge/routes', ['#contract', '../auth/keys.ts'], ['../../gpu-fn/contract.ts', 'node:crypto']],
  ['gpu-fn', ['./pipeline/noise.ts', 'node:fs', 'zod'], ['../edge/auth/keys.ts', '../infra/local/demo.ts']],
  ['edge/routes', ['../jobs/job.ts', '../http/errors.ts'], ['../app.ts']],
  ['edge/requests', ['../jobs/record.ts', '../accounts/ledger.ts'], ['../routes/jobs.ts', '../operations/status.ts']],
  ['edge/jobs', ['../accounts/ledger.ts', '../gpu/client.ts'], ['../routes/jobs.ts', '../requests/generate.ts']],
  ['edge/accounts', ['../usage/record.ts', './ledger.ts'], ['../jobs/record.ts']],
  ['edge/webhooks', ['../results/results.ts'], ['../jobs/record.ts', '../accounts/account.ts']],
  [
    'edge/results',
    ['../auth/links.ts', '../http/errors.ts'],
    ['../dialects/definition/public-job.ts', '../usage/record.ts'],
  ],
  ['edge/gpu', ['../routing/price.ts'], ['../jobs/job.ts', '../webhooks/post.ts']],
  ['edge/routing', ['../http/errors.ts', '../config.ts'], ['../auth/keys.ts', '../gpu/client.ts']],
  ['edge/http', ['../platform/log.ts', '../config/values.ts'], ['../config.ts', '../auth/keys.ts']],
  ['edge/platform', ['./log.ts'], ['../env.ts', '../http/errors.ts', '../config/limits.ts', '../routing/price.ts']],
  [
    'gpu-fn/server',
    ['../engine/engine.ts', './jobs.ts'],
    ['../main.ts', '../weights/cache.ts', '../compile/compile.ts'],
  ],
  ['gpu-fn/contract', ['zod', './limits.ts'], ['../dtype.ts', '../manifest.ts', 'node:crypto', 'hono', 'zod/mini']],
  ['gpu-fn/server', ['../contract.ts'], ['../contract/limits.ts']],
  [
    'gpu-fn/scheduler',
    ['./task.ts'],
    ['../server/job.ts', '../engine/engine.ts', '../contract.ts', '../contract/seed.ts'],
  ],
  [
    'gpu-fn/engine',
    ['../pipeline/txt2img.ts', '../weights/packages.ts'],
    ['../server/job.ts', '../models/families.ts'],
  ],
  [
    'gpu-fn/pipeline',
    ['../runtime/session.ts', '../manifest.ts'],
    ['../engine/package/memory-plan.ts', '../weights/download/bucket.ts'],
  ],
  ['gpu-fn/runtime', ['../manifest.ts', './native.ts'], ['../pipeline/pipeline.ts', '../compile/write/onnx.ts']],
  [
    'gpu-fn/models/sd35',
    ['../../compile/graph/nn.ts', './sd35.ts'],
    [
      '../../compile/lower/lowerings.ts',
      '../../pipeline/noise.ts',
      '../../compile/compile.ts',
      '../../compile/write/onnx.ts',
    ],
  ],
  [
    'gpu-fn/kernels/linear',
    ['../../compile/lower/cuda-fp8.ts', '../../compile/graph/ops.ts', '../definition/test-case.ts'],
    ['../../compile/write/onnx.ts', '../../models/families.ts', '../../engine/engine.ts'],
  ],
  [
    'gpu-fn/compile/lower',
    ['../graph/nn.ts'],
    ['../../models/families.ts', '../../kernels/reference.ts', '../compile.ts', '../write/onnx.ts'],
  ],
  ['gpu-fn/compile/graph', ['../checkpoint/tensor.ts', './ops.ts'], ['../lower/cpu.ts', '../write/weights.ts']],
  ['gpu-fn/compile/checkpoint', ['./tensor.ts', 'node:fs'], ['../graph/graph.ts', '../../manifest.ts']],
  [
    'gpu-fn/compile/checkpoint/layout',
    ['../tensor.ts', '../formats/dtype.ts', './naming.ts'],
    ['../../graph/graph.ts', '../../place.ts', '../../../dtype.ts'],
  ],
])('%s may import %j and may not import %j', async (directory, allowed, forbidden) => {
  expect(await findViolations(directory, [...allowed, ...forbidden])).toEqual(forbidden)
})

test('an import cycle is refused, type imports included', async () => {
  const first = "import type { B } from './b.ts'\nexport type A = { b: B }\n"
  const second = "import type { A } from './a.ts'\nexport type B = { a: A | null }\n"
  const files = { 'edge/jobs/a.ts': first, 'edge/jobs/b.ts': second }
  expect(await lint(files, 'edge/jobs/a.ts')).toEqual(['noImportCycles: 1'])
})

/** Imports of a source file relative to the root, types included. */
const importsOf = (file: string, source: string) =>
  [...source.matchAll(/\b(?:from|import\() ?'(\.[^']+)'/g)].map(([, name]) => path.join(path.dirname(file), name!))

/** Pairs of folders that import each other. A file directly in edge/ counts as a folder of its own. */
function findFolderCycles(sources: Record<string, string>): string[] {
  const folderOf = (file: string) => (path.dirname(file) === 'edge' ? file : path.dirname(file))
  const pairs = Object.entries(sources).flatMap(([file, source]) =>
    importsOf(file, source).map((imported) => [folderOf(file), folderOf(imported)] as const),
  )
  const edges = new Set(pairs.filter(([from, to]) => from !== to).map((pair) => pair.join(' ')))
  return [...edges].filter((edge) => {
    const [from, to] = edge.split(' ') as [string, string]
    return from < to && edges.has(`${to} ${from}`)
  })
}

test('no two folders of the worker import each other, nested folders and types included', async () => {
  const planted = {
    'edge/webhooks/a.ts': "import type { B } from './delivery/b.ts'\n",
    'edge/webhooks/delivery/b.ts': "import { a } from '../a.ts'\n",
  }
  expect(findFolderCycles(planted)).toEqual(['edge/webhooks edge/webhooks/delivery'])
  const sources: Record<string, string> = {}
  // The types of the bindings name every object's class.
  for await (const file of glob('edge/**/*.ts', { cwd: root }))
    if (file !== 'edge/env.ts') sources[file] = await readFile(path.join(root, file), 'utf8')
  expect(Object.keys(sources).length).toBeGreaterThan(100)
  expect(findFolderCycles(sources)).toEqual([])
})

test.each([
  ['(env: Env) => env.ACCOUNT', []],
  ['(env: Env) => env.GPU_URL', ['TS2339']],
  ["(env: Env) => env['OCTET_ADMIN_TOKEN']", ['TS7053']],
])('only config.ts reads variables: %s', async (reader, errors) => {
  const edge = path.join(root, 'edge')
  const options = { extends: path.join(edge, 'tsconfig.json'), include: ['reader.ts', path.join(edge, 'env.ts')] }
  await symlink(path.join(root, 'node_modules'), path.join(scratch, 'node_modules')).catch(() => {})
  await writeFile(path.join(scratch, 'tsconfig.json'), JSON.stringify(options))
  await writeFile(path.join(scratch, 'package.json'), '{"type": "module"}')
  await writeFile(path.join(scratch, 'reader.ts'), `export const read = ${reader}\n`)
  const { stdout } = await promisify(execFile)(tsc, ['-p', scratch]).catch((error) => error)
  expect([...stdout.matchAll(/reader\.ts.*(TS\d+)/g)].map(([, code]) => code)).toEqual(errors)
})

test('the env of cloudflare:workers, which contains the variables, is not imported', async () => {
  const source = "import { env } from 'cloudflare:workers'\nconsole.log(env)\n"
  for (const file of ['edge/jobs/job.ts', 'edge/reader.ts'])
    expect(await lint({ [file]: source }, file)).toEqual(['noRestrictedImports: 1'])
})

/** All imports of a file, as written. */
async function readImportedNames(file: string): Promise<string[]> {
  const source = await readFile(path.join(root, file), 'utf8')
  return [...source.matchAll(/\bfrom '([^']+)'|import\('([^']+)'\)/g)].map(([, name, loaded]) => name ?? loaded!)
}

test('gpu-fn/compile/graph/graph.ts imports ../../dtype.ts and nothing else', async () => {
  expect(await readImportedNames('gpu-fn/compile/graph/graph.ts')).toEqual(['../../dtype.ts'])
})

test('the files of the contract import only zod and each other', async () => {
  const parts = (await readdir(path.join(root, 'gpu-fn/contract'))).toSorted()
  expect(await readImportedNames('gpu-fn/contract.ts')).toEqual(parts.map((part) => `./contract/${part}`))
  const imported = await Promise.all(parts.map((part) => readImportedNames(`gpu-fn/contract/${part}`)))
  expect(imported.flat().filter((name) => name !== 'zod' && !parts.includes(name.replace('./', '')))).toEqual([])
})

test('Durable Objects are called through objectOf, which retries calls after resets', async () => {
  const calls: string[] = []
  for await (const file of glob('edge/**/*.ts', { cwd: root })) {
    const source = await readFile(path.join(root, file), 'utf8')
    if (/\.(getByName|idFromName|newUniqueId)\(/.test(source)) calls.push(file)
  }
  // The calls in health.ts are best-effort, so they are not retried.
  expect(calls.toSorted()).toEqual(['edge/gpu/health.ts', 'edge/platform/durable-objects.ts'])
})
