import { readFileSync } from 'node:fs'
import path from 'node:path'
import { parse } from '@babel/parser'
import { expect, test } from 'vitest'

const root = path.join(import.meta.dirname, '../..')
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
const { imports, scripts, devDependencies } = manifest as Record<string, Record<string, string>>

/** Modules that a source file imports: at once, and on demand by `import()`. Type imports are absent. */
function importsOf(file: string): { static: string[]; lazy: string[] } {
  const source = readFileSync(path.join(root, file), 'utf8')
  const { body } = parse(source, {
    sourceType: 'module',
    plugins: ['typescript', 'explicitResourceManagement'],
  }).program
  const found = body.flatMap((node) => {
    if (node.type === 'ImportDeclaration') return node.importKind === 'type' ? [] : [node.source.value]
    if (node.type === 'ExportNamedDeclaration' || node.type === 'ExportAllDeclaration')
      return node.source && node.exportKind !== 'type' ? [node.source.value] : []
    return []
  })
  const resolve = (name: string) => {
    const target = imports![name] ?? name
    if (imports![name]) return path.normalize(target)
    return name.startsWith('.') ? path.join(path.dirname(file), name) : name
  }
  const lazy = [...source.matchAll(/\bimport\('([^']+)'\)/g)].map(([, name]) => resolve(name!))
  return { static: found.map(resolve), lazy }
}

/** Packages that are loaded with a file. */
function packagesOf(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return new Set()
  seen.add(file)
  const packages = new Set<string>()
  for (const name of importsOf(file).static) {
    if (name.endsWith('.ts')) for (const found of packagesOf(name, seen)) packages.add(found)
    else if (!name.startsWith('node:')) packages.add(name.split('/', name.startsWith('@') ? 2 : 1).join('/'))
  }
  return packages
}

const developmentPackagesOf = (file: string) => [...packagesOf(file)].filter((name) => name in devDependencies!)

const programs = Object.values(scripts!).flatMap((script) => /\bnode (\S+\.ts)/.exec(script)?.[1] ?? [])

/** Programs for development alone. */
const DEVELOPMENT = ['infra/cost/main.ts', 'infra/quality/main.ts']

test.each(programs)('%s starts with production dependencies alone, unless it is for development', (program) => {
  expect(developmentPackagesOf(program).length > 0).toBe(DEVELOPMENT.includes(program))
})

/** Commands whose module imports a development dependency at once. All others must not. */
const NEED_DEVELOPMENT = ['infra/bench/stream.ts']

test.each(importsOf('infra/bench/main.ts').lazy)('bench command %s needs production dependencies alone', (module) => {
  expect(developmentPackagesOf(module).length > 0).toBe(NEED_DEVELOPMENT.includes(module))
})
