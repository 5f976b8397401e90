// The documents against the tree: links, paths, commands, the folder map, and the tables that repeat lists of the source.
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { TIERS } from '../../gpu-fn/contract.ts'
import { TARGETS } from '../../gpu-fn/manifest.ts'
import { VARIANTS } from '../../gpu-fn/models/sd35/variants.ts'
import { type Figure, figure } from '../../infra/bench/gpu/plan.ts'
import packageJson from '../../package.json' with { type: 'json' }

const root = path.join(import.meta.dirname, '../..')
const read = (file: string) => readFileSync(path.join(root, file), 'utf8')
const PAGES = ['README.md', 'CONTRIBUTING.md', ...globSync('docs/*.md', { cwd: root }).toSorted()]
const ROOTS = ['edge', 'gpu-fn', 'infra', 'test']
const FOLDERS = ['docs', '.ci', ...ROOTS]

/** The page's lines without code blocks. */
const proseOf = (text: string) => text.replace(/^( *)```[\s\S]*?^\1```$/gm, '').split('\n')

/** GitHub's anchor of a heading. */
const anchorOf = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')
const anchorsOf = (page: string) =>
  proseOf(read(page)).flatMap((line) => (line.startsWith('#') ? [anchorOf(line.replace(/^#+ /, ''))] : []))

function findBrokenLinks(page: string): string[] {
  const links = [
    ...proseOf(read(page))
      .join('\n')
      .matchAll(/\]\(([^)\s]+)\)/g),
  ].map(([, link]) => link!)
  return links.filter((link) => {
    if (/^https?:/.test(link)) return false
    const [file, anchor] = link.split('#') as [string, string?]
    const target = file === '' ? page : path.join(path.dirname(page), file)
    if (!existsSync(path.join(root, target))) return true
    return anchor !== undefined && !anchorsOf(target).includes(anchor)
  })
}

/** Spans in backticks, and code blocks. */
const codeOf = (text: string): string[] => [
  ...[...text.matchAll(/^( *)```\w*\n([\s\S]*?)^\1```$/gm)].map(([, , block]) => block!),
  ...[
    ...proseOf(text)
      .join('\n')
      .matchAll(/`([^`]+)`/g),
  ].map(([, span]) => span!),
]

/** Paths below the project's folders. A path with a placeholder in capitals, as in `edge/dialects/NAME/`, is skipped. */
function findMissingPaths(page: string): string[] {
  const pattern = new RegExp(
    `(?<![\\w/.~-])(?:${FOLDERS.map((name) => name.replace('.', '\\.')).join('|')})/[\\w./-]*`,
    'g',
  )
  const paths = codeOf(read(page)).flatMap((code) => [...code.matchAll(pattern)].map(([name]) => name))
  return paths.filter((name) => !/[A-Z]{3}/.test(name) && !exists(name.replace(/\.$/, '')))
}

const BUILT = ['gpu-fn/kernels/dist']
const exists = (name: string) =>
  BUILT.some((built) => name.startsWith(built)) ||
  existsSync(path.join(root, name)) ||
  globSync(`${name}.*`, { cwd: root }).length > 0

const scriptsOf = (text: string) =>
  codeOf(text).flatMap((code) => [...code.matchAll(/npm run (?:-s )?([a-z][\w:-]*)/g)].map(([, name]) => name!))

describe.each(PAGES)('%s', (page) => {
  test('has no broken relative link', () => expect(findBrokenLinks(page)).toEqual([]))
  test('names only paths that exist', () => expect(findMissingPaths(page)).toEqual([]))
  test('names only scripts of package.json', () => {
    expect(scriptsOf(read(page)).filter((name) => !(name in packageJson.scripts))).toEqual([])
  })
  test('has prose lines of at most 120 characters', () => {
    expect(proseOf(read(page)).filter((line) => [...line].length > 120 && !line.startsWith('|'))).toEqual([])
  })
})

test('the README has under 150 lines', () => expect(read('README.md').trimEnd().split('\n').length).toBeLessThan(150))

/** Folders of the map in docs/architecture.md, such as `edge/accounts`. */
function listMappedFolders(): string[] {
  const [, map] = /<!-- folders -->\s+```\n([\s\S]*?)```/.exec(read('docs/architecture.md')) ?? []
  const parents: string[] = []
  return map!
    .trimEnd()
    .split('\n')
    .map((line) => {
      const [, indent, name] = /^( *)([\w-]+)\/ /.exec(line)!
      parents.length = indent!.length / 2
      parents.push(name!)
      return parents.join('/')
    })
}

const GENERATED = ['__pycache__', 'dist', 'node_modules']
const listFolders = (folder: string) =>
  readdirSync(path.join(root, folder), { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !GENERATED.includes(entry.name))
    .map(({ name }) => `${folder}/${name}`)

test('the map of folders is complete: it lists all or none of the subfolders of each folder', () => {
  const mapped = listMappedFolders()
  const opened = new Set([...ROOTS, ...mapped.map((folder) => path.dirname(folder)).filter((folder) => folder !== '.')])
  expect(mapped.toSorted()).toEqual([...ROOTS, ...[...opened].flatMap(listFolders)].toSorted())
})

/** Layers of biome.json's rules, each with the layers that it may import. */
const rules = [...read('biome.json').matchAll(/"Layers: (.+?) (?:may import (.+?)|imports no other layer)\."/g)].map(
  ([, layer, imports]) => ({ layer: layer!, imports: imports ?? '' }),
)

test('the layers of the worker are those of biome.json, in order', () => {
  const [, list] = /<!-- edge-layers -->\n\n([\s\S]*?)\n\n/.exec(read('docs/architecture.md'))!
  const layers = list!.split('\n').map((line) => line.replace(/^\d+\. /, ''))
  const expected = layers.map((layer, k) => {
    const below = layers.slice(k + 1)
    const others = below.length > 0 ? `the layers below (${below.join(', ')})` : 'its own files'
    return { layer, imports: `#contract, packages and ${others}` }
  })
  expect(rules.filter(({ imports }) => imports.startsWith('#contract'))).toEqual(expected)
})

test('the layers of the GPU function are those of biome.json', () => {
  const rows = readSection('docs/architecture.md', '<!-- gpu-layers -->').matchAll(/^\| ([\w/]+) \| (.*?)\s*\|$/gm)
  const documented = [...rows].map(([, layer, imports]) => ({ layer: `gpu-fn ${layer}`, imports }))
  expect(documented.slice(1)).toEqual(rules.filter(({ layer }) => layer.startsWith('gpu-fn')))
})

/** First cells of the table rows of a page, without backticks, each split at commas. */
const readFirstCells = (text: string) =>
  [...text.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, cell]) =>
    cell!.split(', ').map((name) => name.replaceAll('`', '')),
  )
const readSection = (page: string, from: string, to = '\n## ') => read(page).split(from)[1]!.split(to)[0]!
const keysOf = (source: string, pattern: RegExp) => [...source.matchAll(pattern)].map(([, name]) => name!)

test('docs/api.md has every error with its status', () => {
  const errors = [...read('edge/http/error-codes.ts').matchAll(/^ {2}(\w+): \[(\d+), '/gm)].map(
    ([, code, status]) => `${code} ${status}`,
  )
  const rows = [...readSection('docs/api.md', '## Errors').matchAll(/^\| `(\w+)` \| (\d+) \|/gm)]
  expect(rows.map(([, code, status]) => `${code} ${status}`).toSorted()).toEqual(errors.toSorted())
})

test('docs/api.md has every field of a request', () => {
  const [, schema] = /export const generation = z\.strictObject\(\{\n([\s\S]*?)^\}\)/m.exec(
    read('edge/requests/generation-request.ts'),
  )!
  const options = /export const imageOptionFields = \{\n([\s\S]*?)^\}/m.exec(
    read('edge/requests/image-options.ts'),
  )![1]!
  expect(readFirstCells(readSection('docs/api.md', '## Generating', '\n### ')).toSorted()).toEqual(
    [schema!, options].flatMap((each) => keysOf(each, /^ {2}(\w+): /gm)).toSorted(),
  )
})

const VARIANT_NAMES = VARIANTS.map(({ name }) => name)

test.each([
  ['docs/api.md', '`tier`', ['auto', ...TIERS]],
  ['docs/deploy.md', '`--tier`', TIERS],
  ['docs/glossary.md', 'tier', TIERS],
  ['docs/deploy.md', '`--target`', TARGETS],
  ['docs/glossary.md', 'target', TARGETS],
  ['docs/deploy.md', '`--variant`', [...VARIANT_NAMES, 'custom']],
] as const)('%s has every value in the row %s', (page, name, values) => {
  const row = read(page)
    .split('\n')
    .find((line) => line.startsWith(`| ${name} |`))
  const cell = row!.split(' | ')[1]!
  expect(keysOf(cell, /`([\w-]+)`/g).toSorted()).toEqual([...values].toSorted())
})

test('docs/performance.md has every operator of the kernels', () => {
  const [, list] = /addAll<([\w, ]+)>\(api/.exec(read('gpu-fn/kernels/register.cu'))!
  const operators = readFirstCells(readSection('docs/performance.md', '## FP8 operators'))
  expect(operators.toSorted()).toEqual(list!.split(', ').toSorted())
})

test('docs/deploy.md has every variable of both programs', () => {
  const gpu = keysOf(read('gpu-fn/config.ts'), /^ {2}([A-Z][A-Z0-9_]+): /gm)
  expect(readFirstCells(readSection('docs/deploy.md', '<!-- gpu-variables -->')).toSorted()).toEqual(gpu.toSorted())
  const [, simple] = /^\[vars\]\n([\s\S]*?)^\[/m.exec(read('wrangler.toml'))!
  const tables = keysOf(read('wrangler.toml'), /^(?:# )?\[+vars\.([A-Z_]+)/gm)
  const worker = new Set([...keysOf(simple!, /^([A-Z_]+) = /gm), ...tables])
  expect(readFirstCells(readSection('docs/deploy.md', '<!-- worker-variables -->')).toSorted()).toEqual(
    [...worker].toSorted(),
  )
})

test("the README's GPU figures are those of docs/gpu.jsonl", () => {
  const figures = read('docs/gpu.jsonl')
    .trim()
    .split('\n')
    .map((line): Figure => figure.parse(JSON.parse(line)))
  const value = (system: string, metric: string, digits: number) => {
    const found = figures.findLast(
      (each) =>
        each.variant === 'large' &&
        each.system === system &&
        each.metric === metric &&
        each.size !== '1024x768' &&
        each.size !== '512x512',
    )
    return Number(found!.value)
      .toFixed(digits)
      .replace(/\B(?=(\d{3})+$)/, ',')
  }
  const readme = read('README.md')
  const formatComparison = (metric: string) =>
    `${value('octet-fp8', metric, 2)} s; PyTorch ${value('torch-bf16', metric, 2)} s, compiled ${value('torch-bf16-compile', metric, 2)} s`
  expect(readme).toContain(`| ${formatComparison('turbo_s')} |`)
  expect(readme).toContain(`| ${formatComparison('full_s')} |`)
  const formatMemory = (system: string) => value(system, 'peak_mib_turbo', 0)
  expect(readme).toContain(`| ${formatMemory('octet-fp8')} MiB; PyTorch ${formatMemory('torch-bf16')} MiB |`)
  expect(readme).toContain(`| ${formatMemory('octet-fp8-in-8gb')} MiB, ${value('octet-fp8-in-8gb', 'turbo_s', 2)} s |`)
  const first = (system: string) => value(system, 'first_image_s', 1)
  expect(readme).toContain(`| ${first('start-fp8')} s; PyTorch ${first('torch-bf16')} s |`)
})
