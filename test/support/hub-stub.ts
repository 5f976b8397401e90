// A stub of the Hugging Face hub over a directory: the listing with digests, and files in ranges, both for holders of a token.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { serveLocally } from '../../infra/command/local-server.ts'

export type HubStub = { url: string; close: () => void }
type Entry = {
  type: 'file'
  path: string
  size: number
  oid: string
  lfs?: { oid: string; size: number; pointerSize: number }
}

/** Serves `directory` as the repository `repo` to requests with `token`. `alterListing` may falsify the listing. */
export async function startHub(
  directory: string,
  {
    repo,
    token,
    alterListing = (entries) => entries,
  }: { repo: string; token: string; alterListing?: (entries: Entry[]) => Entry[] },
): Promise<HubStub> {
  const listing = alterListing(await list(directory))
  const { url, stop } = await serveLocally(async (request, response) => {
    const { pathname } = new URL(request.url!, 'http://hub')
    if (request.headers.authorization !== `Bearer ${token}`) {
      response.writeHead(request.headers.authorization ? 403 : 401, { 'content-type': 'application/json' })
      return response.end('{"error":"Access to this model is restricted."}')
    }
    if (pathname === `/api/models/${repo}/tree/main`) {
      response.writeHead(200, { 'content-type': 'application/json' })
      return response.end(JSON.stringify(listing))
    }
    const [, name] = pathname.split(`/${repo}/resolve/main/`)
    const file = name && path.join(directory, decodeURIComponent(name))
    const found = file ? await stat(file).catch(() => null) : null
    if (!file || !found) return response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
    const start = Number(from ?? 0)
    const end = Math.min(to ? Number(to) : found.size - 1, found.size - 1)
    const ranged = from === undefined ? {} : { 'content-range': `bytes ${start}-${end}/${found.size}` }
    response.writeHead(from === undefined ? 200 : 206, { etag: '"e"', 'content-length': end - start + 1, ...ranged })
    return createReadStream(file, { start, end }).pipe(response)
  })
  return { url, close: () => void stop() }
}

/** Large files as in the hub, with a SHA-256; other files with git's own digest. */
async function list(directory: string): Promise<Entry[]> {
  const names = (await readdir(directory, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)))
  return Promise.all(
    names.sort().map(async (name): Promise<Entry> => {
      const data = await readFile(path.join(directory, name))
      const oid = createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex')
      const entry = { type: 'file', path: name, size: data.length, oid } as const
      if (!name.endsWith('.safetensors')) return entry
      const sha256 = createHash('sha256').update(data).digest('hex')
      return { ...entry, lfs: { oid: sha256, size: data.length, pointerSize: 130 } }
    }),
  )
}
