// Downloads an account's export from the worker into a file, part by part, optionally with its images.
import fs from 'node:fs/promises'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import { accountPathOf, request, type Target } from './keys.ts'

type Line =
  | { type: 'job'; id: string; job: { images: { url: string | null }[] } | null }
  | { type: 'continued'; after: string }
  | { type: 'end' | 'other' }

/** Downloads the images linked from a job, skipping those deleted in the meantime. Returns the number saved. */
async function saveImages(line: Extract<Line, { type: 'job' }>, directory: string): Promise<number> {
  const urls = (line.job?.images ?? []).flatMap(({ url }) => (url === null ? [] : [url]))
  let saved = 0
  for (const url of urls) {
    const response = await fetch(url)
    if (response.status === 404) continue
    if (!response.ok) throw new Error(`an image of ${line.id} could not be read: ${response.status}`)
    const folder = path.join(directory, path.basename(line.id))
    await fs.mkdir(folder, { recursive: true })
    await fs.writeFile(path.join(folder, path.basename(new URL(url).pathname)), await response.bytes())
    saved += 1
  }
  return saved
}

const isJob = (line: Line): line is Extract<Line, { type: 'job' }> => line.type === 'job'

/**
 * Writes the export of an account to `file`, which is created only when complete, and its images to the directory `images`, if given.
 * Throws if the export is interrupted; run it again.
 */
export async function exportAccount(
  target: Target,
  account: string,
  file: string,
  images?: string,
): Promise<{ lines: number; images: number }> {
  const counts = { lines: 0, images: 0 }
  const partial = `${file}.part`
  // Contains prompts and signed links, so only its owner may read it.
  const output = await fs.open(partial, 'w', 0o600)
  try {
    for (let after: string | null = ''; after !== null; ) {
      const query: string = after === '' ? '' : `?after=${encodeURIComponent(after)}`
      const { body } = await request(target, 'GET', accountPathOf(account, `/export${query}`))
      let last: Line = { type: 'other' }
      for await (const text of createInterface({ input: Readable.fromWeb(body as ReadableStream) })) {
        last = JSON.parse(text) as Line
        if (last.type === 'end' || last.type === 'continued') break
        await output.write(`${text}\n`)
        counts.lines += 1
        if (images !== undefined && isJob(last)) counts.images += await saveImages(last, images)
      }
      if (last.type !== 'end' && last.type !== 'continued') throw new Error('the export was interrupted; run it again')
      after = last.type === 'continued' ? last.after : null
    }
  } finally {
    await output.close()
  }
  await fs.rename(partial, file)
  return counts
}
