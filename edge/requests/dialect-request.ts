// Reads the request of a dialect, and translates it to a native request.
import type { Context } from 'hono'
import { configOf } from '../config.ts'
import type { DialectRequest, DialectRoute } from '../dialects/definition/dialect.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError, shorten } from '../http/errors.ts'
import { isForm, parseFields, readForm, readJson } from '../http/validation.ts'
import { objectOf } from '../platform/durable-objects.ts'
import type { Warning } from '../routing/decision.ts'
import { generation } from './generation-request.ts'
import { toTypedFields } from './inputs/form-fields.ts'
import { createSubmission, limitBodyWithoutImage, removeNulls } from './submission.ts'

type SubmitRoute = Extract<DialectRoute, { action: 'submit' }>

const isObject = (body: unknown): body is Record<string, unknown> =>
  typeof body === 'object' && body !== null && !Array.isArray(body)

/** Reads a JSON object or a form. Errors: unsupported_media_type, body_too_large, invalid_request. */
async function readBody(c: Context<EdgeEnv>, accepts: SubmitRoute['accepts']): Promise<Record<string, unknown>> {
  const isTyped = accepts !== 'form' && isForm(c)
  const fields = accepts === 'form' || isTyped ? await readForm(c) : removeNulls(await readJson(c))
  limitBodyWithoutImage(c, fields)
  if (isTyped) return toTypedFields(fields as Record<string, unknown>)
  // The native schema rejects a body that is not an object.
  return isObject(fields) ? fields : parseFields(generation, generation.shape, fields)
}

/** The request in the form that dialects parse, with a body if its route accepts one. */
export async function readDialectRequest(
  c: Context<EdgeEnv>,
  accepts?: SubmitRoute['accepts'],
): Promise<DialectRequest> {
  const body = accepts ? await readBody(c, accepts) : {}
  const { origin } = new URL(c.req.url)
  return { params: c.req.param(), query: c.req.query(), headers: c.req.raw.headers, body, origin }
}

const MAX_NAMES = 20
const NAME_CHARACTERS = 60

/** Keeps native fields, and adds a warning about all others. */
function ignoreUnknown(fields: Record<string, unknown>): { fields: Record<string, unknown>; warnings: Warning[] } {
  const entries = Object.entries(fields)
  const isNative = ([name]: [string, unknown]) => Object.hasOwn(generation.shape, name)
  const names = entries.filter((entry) => !isNative(entry)).map(([name]) => shorten(name, NAME_CHARACTERS))
  if (names.length === 0) return { fields, warnings: [] }
  const message = `Fields without an effect: ${names.slice(0, MAX_NAMES).join(', ')}${names.length > MAX_NAMES ? ', …' : ''}.`
  return { fields: Object.fromEntries(entries.filter(isNative)), warnings: [{ code: 'unknown_fields', message }] }
}

/** An error with the names of fields as the caller sent them. */
function renameParams(thrown: unknown, names: Readonly<Record<string, string>>): unknown {
  if (!(thrown instanceof ApiError)) return thrown
  const { param, errors, ...details } = thrown.details
  const sentNameOf = (native: string) => (Object.hasOwn(names, native) ? names[native]! : native)
  const reword = (text: string) => text.replace(/^\w+/, sentNameOf)
  return new ApiError(thrown.code, reword(thrown.message), {
    ...details,
    ...(param !== undefined && { param: sentNameOf(param) }),
    ...(errors && {
      errors: errors.map((each) => ({
        param: each.param === null ? null : sentNameOf(each.param),
        message: reword(each.message),
      })),
    }),
  })
}

/** The model that the key has chosen, if the deployment still has it. */
async function choiceOf(c: Context<EdgeEnv>): Promise<{ model?: string }> {
  const { account, keyId } = c.get('credential')
  const model = await objectOf(c.env.ACCOUNT, account).chosenModel(keyId)
  const isServed = configOf(c.env).catalog.offers.some((offer) => offer.model === model)
  return model !== null && isServed ? { model } : {}
}

/** Reads a request of a dialect and translates it. A request that waits for the job's end joins a recent equal one that is running. */
export async function readTranslation(c: Context<EdgeEnv>, dialect: string, { accepts, parse }: SubmitRoute) {
  const request = await readDialectRequest(c, accepts)
  const { wait, files, names = {}, ...translation } = parse(request)
  const { fields, warnings } = translation.ignoresUnknown
    ? ignoreUnknown(translation.fields)
    : { fields: translation.fields, warnings: [] }
  const source = {
    ...{ dialect, joins: typeof wait === 'string', warnings: [...(translation.warnings ?? []), ...warnings] },
    ...(translation.wantedSize && { wantedSize: translation.wantedSize }),
    ...(translation.webhookEvents && { webhookEvents: translation.webhookEvents }),
  }
  const choice = translation.usesChoice && fields.model === undefined ? await choiceOf(c) : {}
  const created = await createSubmission(c, { ...fields, ...choice }, source).catch((thrown: unknown) => {
    throw renameParams(thrown, names)
  })
  return { request, wait, files, ...created }
}
