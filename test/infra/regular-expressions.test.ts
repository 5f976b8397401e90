// Checks all regular expressions of the source for super-linear matching time (ReDoS) with recheck.
import { globSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { parse } from '@babel/parser'
import { check } from 'recheck'
import { expect, test } from 'vitest'
import * as z from 'zod'

type Pattern = { file: string; source: string; flags: string }
type Node = { type: string; [name: string]: unknown }

const root = path.join(import.meta.dirname, '../..')

/** Files with expressions that may be slow because they are never applied to untrusted text, with the reason. */
const EXEMPT: Record<string, string> = {
  'infra/bench/gpu/table.ts': 'replaces the tables of docs/performance.md of this repository',
  'infra/cost/tables.ts': 'replaces a table of docs/cost.md of this repository',
}

function* nodesOf(value: unknown): Generator<Node> {
  if (Array.isArray(value)) for (const each of value) yield* nodesOf(each)
  else if (typeof value === 'object' && value !== null) {
    if ('type' in value) yield value as Node
    for (const [name, each] of Object.entries(value)) if (name !== 'loc') yield* nodesOf(each)
  }
}

/** Returns the text of a string or template literal, with `x` for each expression in a template. Returns null for other nodes. */
function textOf(node: Node | undefined): string | null {
  if (node?.type === 'StringLiteral') return node.value as string
  if (node?.type !== 'TemplateLiteral') return null
  return (node.quasis as { value: { cooked: string } }[]).map(({ value }) => value.cooked).join('x')
}

const isCall = ({ type, callee }: Node) =>
  (type === 'NewExpression' || type === 'CallExpression') && (callee as Node).name === 'RegExp'

/** Returns the regular expression created by a node, or null. Throws if its pattern is not a literal. */
function patternOf(file: string, node: Node): Pattern | null {
  if (node.type === 'RegExpLiteral') return { file, source: node.pattern as string, flags: node.flags as string }
  if (!isCall(node)) return null
  const [pattern, flags] = node.arguments as Node[]
  const source = textOf(pattern)
  if (source === null) throw new Error(`${file}: the argument of new RegExp is neither a string nor a template`)
  return { file, source, flags: textOf(flags) ?? '' }
}

function patternsOf(file: string): Pattern[] {
  const text = readFileSync(path.join(root, file), 'utf8')
  const { program } = parse(text, { sourceType: 'module', plugins: ['typescript'] })
  return [...nodesOf(program)].flatMap((node) => patternOf(file, node) ?? [])
}

const textOfPattern = ({ source, flags }: Pattern) => `/${source}/${flags}`

/** Returns descriptions of the patterns that are slow for some input or that recheck cannot classify. */
async function findSlow(patterns: Pattern[]): Promise<string[]> {
  const slow: string[] = []
  for (const pattern of new Map(patterns.map((each) => [textOfPattern(each), each])).values()) {
    const found = await check(pattern.source, pattern.flags, { timeout: 60_000, randomSeed: 1 })
    if (found.status === 'safe') continue
    const why = found.status === 'vulnerable' ? found.complexity.summary : found.error.kind
    slow.push(`${pattern.file}: ${textOfPattern(pattern)} is ${found.status}, ${why}`)
  }
  return slow
}

const findPatterns = (folder: string) =>
  globSync(`${folder}/**/*.ts`, { cwd: root, exclude: ['**/node_modules'] }).flatMap(patternsOf)

test.each(['edge', 'gpu-fn', 'infra'])(
  'regular expressions of %s applied to untrusted text are never slow',
  async (folder) => {
    const patterns = findPatterns(folder)
    expect(patterns.length).toBeGreaterThan(20)
    expect(await findSlow(patterns.filter(({ file }) => !(file in EXEMPT)))).toEqual([])
  },
)

test('every exempt file has a slow regular expression', async () => {
  const exempted = await findSlow(findPatterns('infra').filter(({ file }) => file in EXEMPT))
  expect(exempted.map((each) => each.slice(0, each.indexOf(':'))).toSorted()).toEqual(Object.keys(EXEMPT).toSorted())
})

test('the regular expressions of the zod formats in use are never slow', async () => {
  const given = [z.iso.date(), z.iso.datetime({ offset: true })].map(({ _zod }) => _zod.def.pattern as RegExp)
  expect(await findSlow(given.map(({ source, flags }) => ({ file: 'zod', source, flags })))).toEqual([])
})

test('slow expressions with adjacent or nested repetitions are detected', async () => {
  const slow = [/^\s*=\s*\s*x$/, /(a+)+b/, /(?:^|[,;\s])wait\s*(?:=\s*"?(\d{1,9})"?)?\s*(?=$|[,;])/i]
  expect(await findSlow(slow.map(({ source, flags }) => ({ file: 'test', source, flags })))).toHaveLength(slow.length)
})
