// The configuration: every variable and secret of the worker, parsed once per isolate. Only this file reads them from `env`, whose type
// (env.ts) has the bindings alone.
import * as z from 'zod'
import { catalog } from './config/catalog.ts'
import { contentPolicy } from './config/content-policy.ts'
import { gpuDevices, gpuSlots, gpuTimes } from './config/gpu.ts'
import { gpuBudget } from './config/gpu-budget.ts'
import { accountLimits } from './config/limits.ts'
import { playgroundTokens } from './config/playground.ts'
import { prewarm } from './config/prewarm.ts'
import { prices } from './config/prices.ts'
import { publicOrigin } from './config/public-url.ts'
import { recovery } from './config/recovery.ts'
import {
  adminToken,
  gpuSigningKey,
  moderationKey,
  peppers,
  playgroundKey,
  proxyHeaders,
  receiptKeys,
  SECRETS,
  stripeKey,
} from './config/secrets.ts'
import { traces } from './config/traces.ts'
import { webhookAddresses, webhooks } from './config/webhooks.ts'
import { formatValue } from './http/validation.ts'
import { log } from './platform/log.ts'

const logPrompts = z
  .object({ OCTET_LOG_PROMPTS: z.string().optional() })
  .transform(({ OCTET_LOG_PROMPTS }) => OCTET_LOG_PROMPTS === 'true')

/** Each section is parsed from the variables of its object. */
const schema = z.object({
  ...{ accountLimits, adminToken, catalog, gpuSigningKey, gpuSlots, gpuTimes, logPrompts, peppers, prewarm, prices },
  ...{ contentPolicy, gpuDevices, gpuBudget, moderationKey },
  ...{
    playgroundKey,
    playgroundTokens,
    proxyHeaders,
    publicOrigin,
    receiptKeys,
    recovery,
    stripeKey,
    traces,
    webhookAddresses,
    webhooks,
  },
})
export type Config = z.infer<typeof schema>

/** Sections whose defaults apply if they are malformed: an object whose constructor or alarm throws stops its pending work. */
const DEFAULTED: ReadonlySet<string> = new Set(['recovery', 'traces', 'webhooks'] satisfies (keyof Config)[])

const sections = Object.entries(schema.shape)
const NAMES = sections.flatMap(([, section]) => Object.keys(section.in.shape))
type Values = Record<string, unknown>

/** The description of a schema, with or without a default value. */
const descriptionOf = (schema: unknown): string | undefined =>
  schema instanceof z.ZodPrefault ? descriptionOf(schema.unwrap()) : (schema as z.ZodType).description

/** The problem of a variable: its name, the given value unless it is a secret, and the allowed values. */
function describeProblem(
  { path, message, input }: z.core.$ZodIssue,
  values: Values,
  shape: Record<string, z.ZodType>,
): string {
  const [name, ...rest] = path as [string, ...(string | number)[]]
  const allowed = descriptionOf(shape[name])
  if (SECRETS.has(name))
    return `${name} is ${values[name] === undefined ? 'missing' : 'malformed'}; it must be ${allowed}.`
  if (rest.length === 0 && allowed) return `${name} is ${formatValue(values[name])}; it must be ${allowed}.`
  const place = rest.map((key) => (typeof key === 'number' ? `[${key}]` : `.${key}`)).join('')
  return `${name}${place} is ${formatValue(input)}: ${message}.`
}

type ParsedConfig = { config: Config; problems: string[]; isRefused: boolean }

function parse(values: Values): ParsedConfig {
  const [config, problems, refused] = [{} as Values, [] as string[], [] as string[]]
  for (const [name, section] of sections) {
    const parsed = section.safeParse(values, { reportInput: true })
    if (parsed.success) {
      config[name] = parsed.data
      continue
    }
    const found = new Set(parsed.error.issues.map((issue) => describeProblem(issue, values, section.in.shape)))
    problems.push(...found)
    if (DEFAULTED.has(name)) config[name] = section.parse({})
    else refused.push(name)
  }
  for (const name of refused) Object.defineProperty(config, name, { get: () => refuse(problems) })
  return { config: config as Config, problems, isRefused: refused.length > 0 }
}

/** Checks variables and secrets before a deployment. Returns a sentence for every malformed one. */
export const findProblems = (values: Values): string[] => parse(values).problems

function refuse(problems: readonly string[]): never {
  throw new Error(problems.join(' '))
}

// Cached by environment and values, because tests change values in place.
const cache = new WeakMap<Env, ParsedConfig & { values: Values }>()

function parsedOf(env: Env): ParsedConfig {
  const given = env as unknown as Values
  const cached = cache.get(env)
  if (cached && NAMES.every((name) => cached.values[name] === given[name])) return cached
  const values = Object.fromEntries(NAMES.map((name) => [name, given[name]]))
  const parsed = { ...parse(values), values }
  if (parsed.problems.length > 0) log('error', 'the configuration is malformed', { problems: parsed.problems })
  cache.set(env, parsed)
  return parsed
}

/**
 * The configuration. Reading a malformed section throws an Error that lists the name, value and allowed values of every malformed variable;
 * `recovery`, `traces` and `webhooks` have their defaults instead.
 */
export const configOf = (env: Env): Config => parsedOf(env).config

/** Throws the error of `configOf` if any section is malformed, before work that depends on several of them begins. */
export function checkConfig(env: Env): void {
  const { problems, isRefused } = parsedOf(env)
  if (isRefused) refuse(problems)
}
