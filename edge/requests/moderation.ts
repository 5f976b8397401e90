// A client of OpenAI's moderation API. platform.openai.com/docs/api-reference/moderations
import * as z from 'zod'
import type { Moderation } from '../config/content-policy.ts'

const MAX_REPLY_BYTES = 64 * 1024
const MAX_CATEGORIES = 20

const reply = z.object({
  results: z
    .array(
      z.object({
        flagged: z.boolean(),
        /** The schema of OpenAI has null for categories that a model does not support. */
        categories: z.record(z.string().max(64), z.boolean().nullable()).default({}),
      }),
    )
    .min(1),
})

/** The categories of a flagged text; null for one that is not flagged. */
type ModerationResult = { categories: string[] } | null

/** Reads at most MAX_REPLY_BYTES. Throws on a larger body. */
async function readReply({ body }: Response): Promise<string> {
  const decoder = new TextDecoder()
  let [text, bytes] = ['', 0]
  for await (const chunk of body ?? []) {
    bytes += chunk.byteLength
    if (bytes > MAX_REPLY_BYTES) throw new Error(`the reply has over ${MAX_REPLY_BYTES} bytes`)
    text += decoder.decode(chunk, { stream: true })
  }
  return text + decoder.decode()
}

/** Sends a text for moderation. Throws without a usable reply in time; the message never quotes the text or the reply. */
export async function moderate(
  input: string,
  { url, model, timeout_seconds }: Moderation,
  key: string | null,
): Promise<ModerationResult> {
  const response = await fetch(`${url.replace(/\/$/, '')}/v1/moderations`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) },
    body: JSON.stringify({ model, input }),
    // A redirect would carry the key and the text to another host.
    redirect: 'manual',
    signal: AbortSignal.timeout(timeout_seconds * 1000),
  })
  if (response.status !== 200) {
    response.body?.cancel().catch(() => {})
    throw new Error(`the status is ${response.status}`)
  }
  const parsed = reply.safeParse(parseJson(await readReply(response)))
  if (!parsed.success) throw new Error('the reply is not a moderation result')
  const flagged = parsed.data.results.filter((result) => result.flagged)
  if (flagged.length === 0) return null
  const names = flagged.flatMap(({ categories }) => Object.keys(categories).filter((name) => categories[name]))
  return { categories: [...new Set(names)].slice(0, MAX_CATEGORIES) }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
