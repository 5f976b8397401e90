// Builds edge/dist, the static assets of the worker: the page, the reference of the API, and openapi.json. Wrangler runs this file before it
// bundles the worker (`[build]` in wrangler.toml). Nothing is built while the sources are unchanged.
import { createHash, randomUUID } from 'node:crypto'
import fs from 'node:fs/promises'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const root = path.join(import.meta.dirname, '../..')
const source = path.join(root, 'edge/playground')
const DIST = path.join(root, 'edge/dist')
/** The digest of the sources that DIST was built from. */
const STAMP = path.join(DIST, '.build')
const KEPT: ReadonlySet<string> = new Set(['.assetsignore', '.build'])

/** Files of npm packages for the API reference. */
const DOCS_FILES = [
  'swagger-ui-dist/swagger-ui-bundle.js',
  'swagger-ui-dist/swagger-ui.css',
  '@fontsource-variable/geist/files/geist-latin-wght-normal.woff2',
]

/** A digest of every file that the build reads. */
async function digestOfSources(): Promise<string> {
  const page = ['edge/**/*.{ts,tsx,css,html,svg,webp,js}', 'edge/playground/public/*', 'infra/playground/*.ts']
  const patterns = [...page, 'gpu-fn/contract.ts', 'gpu-fn/contract/*.ts']
  const files = ['package-lock.json']
  for (const pattern of patterns)
    for await (const file of fs.glob(pattern, { cwd: root, exclude: ['edge/dist'] })) files.push(file)
  const contents = files.toSorted().map(async (file) => [file, await readIfFile(path.join(root, file))] as const)
  const hash = createHash('sha256')
  for (const [file, content] of await Promise.all(contents)) if (content) hash.update(`${file}\0`).update(content)
  return hash.digest('hex')
}

async function readIfFile(file: string): Promise<Buffer | null> {
  return (await fs.stat(file)).isFile() ? fs.readFile(file) : null
}

/** Bundles the page with Vite, in production mode whatever the caller's NODE_ENV: development builds contain paths of the sources. */
async function bundlePage(outDir: string): Promise<void> {
  const { build } = await import('vite')
  const { NODE_ENV } = process.env
  process.env.NODE_ENV = 'production'
  await build({
    configFile: false,
    root: source,
    logLevel: 'warn',
    // Outside the directories that wrangler watches.
    cacheDir: path.join(root, '.octet/vite'),
    build: {
      outDir,
      emptyOutDir: true,
      assetsInlineLimit: 0,
      modulePreload: { polyfill: false },
      reportCompressedSize: false,
      target: 'es2024',
    },
  })
  if (NODE_ENV === undefined) delete process.env.NODE_ENV
  else process.env.NODE_ENV = NODE_ENV
}

async function writeReference(outDir: string): Promise<void> {
  // A computed path keeps the compiler from checking the worker's files, which need the types of workerd.
  const file = pathToFileURL(path.join(root, 'edge/openapi/document.ts')).href
  const { openApiDocument } = (await import(file)) as { openApiDocument: () => object }
  await fs.writeFile(path.join(outDir, 'openapi.json'), JSON.stringify(openApiDocument()))
  for (const file of DOCS_FILES)
    await fs.copyFile(path.join(root, 'node_modules', file), path.join(outDir, 'docs', path.basename(file)))
}

async function listFilesBelow(directory: string): Promise<string[]> {
  const entries = await fs.readdir(directory, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile())
  return files.map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)))
}

/** Moves a file, also between file systems: .octet may be a link to another disk. */
async function move(from: string, to: string): Promise<void> {
  await fs.rename(from, to).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EXDEV') throw error
    const beside = `${to}.${randomUUID()}`
    await fs.copyFile(from, beside)
    await fs.rename(beside, to)
  })
}

/** Moves the built files to `dist` and removes others. New files come first, so that a page never names a missing file. */
export async function publish(built: string, dist: string = DIST): Promise<void> {
  const files = await listFilesBelow(built)
  const htmlLast = files.toSorted((a, b) => Number(a.endsWith('.html')) - Number(b.endsWith('.html')))
  for (const file of htmlLast) {
    await fs.mkdir(path.dirname(path.join(dist, file)), { recursive: true })
    await move(path.join(built, file), path.join(dist, file))
  }
  const wanted = new Set(files)
  for (const file of await listFilesBelow(dist))
    if (!wanted.has(file) && !KEPT.has(file)) await fs.rm(path.join(dist, file), { force: true })
}

/** Builds edge/dist unless it is up to date. Concurrent builds of the same sources produce the same files. */
async function buildPlayground(): Promise<void> {
  const digest = await digestOfSources()
  if ((await fs.readFile(STAMP, 'utf8').catch(() => '')) === digest) return
  const scratch = path.join(root, '.octet', `page-${randomUUID()}`)
  try {
    await bundlePage(scratch)
    await writeReference(scratch)
    await publish(scratch)
    await fs.writeFile(STAMP, digest)
  } finally {
    await fs.rm(scratch, { recursive: true, force: true })
  }
}

if (import.meta.main) await buildPlayground()
