// A small image for the reply of a tool.
import type { ContentBlock } from '@modelcontextprotocol/server'
import type { JobRecord } from '../../jobs/record.ts'
import { objectOf } from '../../platform/durable-objects.ts'
import { isAvailable } from '../../results/results.ts'

/** The largest preview: about 60,000 characters of base64, which clients accept in the context of a language model. */
const MAX_BYTES = 45_000
const MAX_CHARACTERS = Math.ceil(MAX_BYTES / 3) * 4

const block = (data: string, mimeType: string): ContentBlock => ({ type: 'image', data, mimeType })

/** The last preview of the first image. */
async function readLastPreview(env: Env, job: JobRecord): Promise<ContentBlock[]> {
  const entries = await objectOf(env.JOB, job.id).events(0)
  const previews = entries.flatMap(({ event }) => (event.type === 'preview' && event.image === 0 ? [event] : []))
  const last = previews.findLast(({ b64_json }) => b64_json.length <= MAX_CHARACTERS)
  return last ? [block(last.b64_json, last.content_type)] : []
}

/** The first image of a job if its file is small, otherwise its last preview; empty if there is neither. */
export async function previewOf(env: Env, job: JobRecord): Promise<ContentBlock[]> {
  const image = job.images.find((each) => each.image === 0)
  if (!image || !isAvailable(image)) return []
  if (image.bytes > MAX_BYTES) return readLastPreview(env, job)
  const file = await env.RESULTS.get(image.key)
  return file ? [block(new Uint8Array(await file.arrayBuffer()).toBase64(), image.content_type)] : []
}
