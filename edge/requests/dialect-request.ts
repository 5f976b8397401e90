// Reads the request of a dialect, and translates it to a native request.
import type { Context } from 'hono'
import { LIMITS } from '#contract'
import type { DialectRequest, DialectRoute } from '../dialects/dialect.ts'
import type { EdgeEnv } from '../http/context.ts'
import { parseFields, readForm, readJson } from '../http/validation.ts'
import type { WantedSize } from '../routing/decision.ts'
import { generation } from './generation-request.ts'
import { createSubmission, withoutNulls } from './submission.ts'

type SubmitRoute = Extract<DialectRoute, { action: 'submit' }>

const isObject = (body: unknown): body is Record<string, unknown> =>
  typeof body === 'object' && body !== null && !Array.isArray(body)

/** Reads a JSON object or a form. Errors: unsupported_media_type, body_too_large, invalid_request. */
async function readBody(c: Context<EdgeEnv>, accepts: SubmitRoute['accepts']): Promise<Record<string, unknown>> {
  if (accepts === 'form') return readForm(c)
  const fields = withoutNulls(await readJson(c))
  // The schema of the native request reports a body that is not an object.
  return isObject(fields) ? fields : parseFields(generation, generation.shape, fields)
}

/** The request as a dialect reads it, with a body if its route accepts one. */
export async function readDialectRequest(
  c: Context<EdgeEnv>,
  accepts?: SubmitRoute['accepts'],
): Promise<DialectRequest> {
  const body = accepts ? await readBody(c, accepts) : {}
  const { origin } = new URL(c.req.url)
  return { params: c.req.param(), query: c.req.query(), headers: c.req.raw.headers, body, origin }
}

const MEGAPIXEL = 1024 ** 2

/** The native size of a wanted size. A shape has about one megapixel. */
function sizeOf(wanted: WantedSize): string {
  if ('width' in wanted) return `${wanted.width}x${wanted.height}`
  const side = (pixels: number) => Math.floor(pixels / LIMITS.side.multipleOf) * LIMITS.side.multipleOf
  return `${side(Math.sqrt(MEGAPIXEL * wanted.aspect))}x${side(Math.sqrt(MEGAPIXEL / wanted.aspect))}`
}

/** Reads a request of a dialect and translates it. */
export async function readTranslation(c: Context<EdgeEnv>, dialect: string, { accepts, parse }: SubmitRoute) {
  const request = await readDialectRequest(c, accepts)
  const { fields: given, wait, wantedSize, warnings: adjustments = [] } = parse(request)
  const fields = wantedSize ? { ...given, size: sizeOf(wantedSize) } : given
  return { request, wait, ...(await createSubmission(c, fields, { dialect, adjustments })) }
}
