// One image from the local worker, with the progress of its job.
import type { JobView, PublicJob } from '../../edge/dialects/definition/public-job.ts'
import type { Local } from './local.ts'

/** The reply of POST /v1/images/generations. */
export type ImageReply = {
  data: { b64_json: string; seed: number | string; content_type: string }[]
  size: string
  octet: { job: string } & Pick<
    PublicJob,
    'route' | 'model' | 'tier' | 'steps' | 'guidance_scale' | 'reason' | 'timings' | 'warnings'
  >
}

type Access = Pick<Local, 'url' | 'key'>

const headersOf = ({ key }: Access) => ({ authorization: `Bearer ${key}`, 'content-type': 'application/json' })

/** Generates an image. `quiet` shows no progress. Throws with the worker's message if it refuses. */
export async function requestImage(local: Access, fields: object, quiet = false): Promise<ImageReply> {
  const body = JSON.stringify({ ...fields, response_format: 'b64_json' })
  const request = fetch(`${local.url}/v1/images/generations`, { method: 'POST', headers: headersOf(local), body })
  const watching = new AbortController()
  const watched = quiet ? null : showProgress(local, watching.signal)
  const response = await request.finally(() => watching.abort())
  await watched
  const reply = (await response.json()) as ImageReply & { detail?: string }
  if (!response.ok) throw new Error(reply.detail ?? `the worker returned ${response.status}`)
  return reply
}

async function read<T>(address: string, local: Access, signal: AbortSignal): Promise<T | null> {
  const reply = await fetch(address, { headers: headersOf(local), signal }).catch(() => null)
  return reply?.ok ? ((await reply.json().catch(() => null)) as T | null) : null
}

const BAR = 24

/** The state of a job with its step, and a bar on a terminal. */
function describeProgress({ state, progress }: JobView): string {
  if (!progress || !('step' in progress)) return state
  const { step, steps } = progress
  const done = Math.round((step / steps) * BAR)
  const bar = process.stderr.isTTY ? `${'█'.repeat(done)}${'░'.repeat(BAR - done)} ` : ''
  return `${bar}${state}: step ${step} of ${steps}`
}

/** Displays the progress of the newest job until the signal aborts. */
async function showProgress(local: Access, signal: AbortSignal): Promise<void> {
  let [id, shown] = ['', '']
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    id ||= (await read<{ data: JobView[] }>(`${local.url}/v1/jobs?limit=1`, local, signal))?.data[0]?.id ?? ''
    const job = id && (await read<JobView>(`${local.url}/v1/jobs/${id}`, local, signal))
    if (!job) continue
    const text = describeProgress(job)
    if (text !== shown) process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text}` : `${text}\n`)
    shown = text
  }
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
}
