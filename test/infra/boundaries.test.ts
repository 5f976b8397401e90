import { execFile } from 'node:child_process'
import { readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const root = path.join(import.meta.dirname, '../..')
const biome = path.join(root, 'node_modules/.bin/biome')

/** Lints a file with these imports in place; returns which of them break a boundary. */
async function refused(directory: string, imports: string[]): Promise<string[]> {
  const file = path.join(root, directory, `boundary-${process.pid}.ts`)
  await writeFile(file, imports.map((name, i) => `import x${i} from '${name}'\nconsole.log(x${i})\n`).join(''))
  try {
    const { stdout } = await promisify(execFile)(biome, [
      'lint',
      '--only=style/noRestrictedImports',
      '--reporter=json',
      file,
    ]).catch((error) => error)
    const { diagnostics } = JSON.parse(stdout) as { diagnostics: { location: { start: { line: number } } }[] }
    return diagnostics.map(({ location }) => imports[(location.start.line - 1) / 2]!)
  } finally {
    await rm(file)
  }
}

test.each([
  ['edge', ['#contract', './keys.ts', 'hono'], ['../gpu-fn/sampler.ts', '../infra/keys.ts', 'node:fs']],
  ['edge/routes', ['#contract', '../keys.ts'], ['../../gpu-fn/contract.ts', 'node:crypto']],
  ['gpu-fn', ['./noise.ts', 'node:fs', 'zod'], ['../edge/keys.ts', '../infra/demo.ts']],
  ['gpu-fn/models', ['../compile/nn.ts', './sd35.ts'], ['../noise.ts', 'node:fs', 'onnxruntime-node']],
])('%s may import %j and may not import %j', async (directory, allowed, forbidden) => {
  expect(await refused(directory, [...allowed, ...forbidden])).toEqual(forbidden)
})

test.each([
  ['gpu-fn/contract.ts', ['zod']],
  ['gpu-fn/compile/graph.ts', []],
])('%s imports %j and nothing else', async (file, allowed) => {
  const source = await readFile(path.join(root, file), 'utf8')
  expect([...source.matchAll(/\bfrom '([^']+)'|import\('([^']+)'\)/g)].map(([, name]) => name)).toEqual(allowed)
})
