// The samplers and schedules of other APIs, by the spellings of stable-diffusion-webui, ComfyUI, k-diffusion and diffusers.
import type { SAMPLERS, SCHEDULES } from '#contract'
import { ApiError } from '../../http/errors.ts'
import { formatValue } from '../../http/validation.ts'
import type { Warning } from '../../routing/decision.ts'

type Sampler = (typeof SAMPLERS)[number]
type Schedule = (typeof SCHEDULES)[number]
type Sampling = { sampler?: Sampler; noise_schedule?: Schedule }
type NamedValue = { label: string; names: readonly string[] }

/** Names in the form that `simplify` returns. */
export const SAMPLER_NAMES: Readonly<Record<Sampler, NamedValue>> = {
  euler: { label: 'Euler', names: ['euler', 'keuler', 'eulerdiscrete', 'flowmatcheuler', 'flowmatcheulerdiscrete'] },
  dpmpp_2m: { label: 'DPM++ 2M', names: ['dpmpp2m', 'kdpmpp2m', 'dpmsolvermultistep'] },
  heun: { label: 'Heun', names: ['heun', 'kheun', 'heundiscrete', 'flowmatchheundiscrete'] },
  lcm: { label: 'LCM', names: ['lcm', 'klcm', 'flowmatchlcm'] },
}
export const SCHEDULE_NAMES: Readonly<Record<Schedule, NamedValue>> = {
  normal: { label: 'Normal', names: ['normal'] },
  simple: { label: 'Simple', names: ['simple'] },
  sgm_uniform: { label: 'SGM Uniform', names: ['sgmuniform'] },
  beta: { label: 'Beta', names: ['beta'] },
}

/** Names of the default. */
const ANY: ReadonlySet<string> = new Set(['', 'automatic', 'auto', 'default', 'none'])
/** Known names without a counterpart. Clients send some of them by default, so they are no errors. */
const OTHERS: ReadonlySet<string> = new Set([
  ...['eulera', 'eulerancestral', 'keulera', 'keulerancestral', 'eulerancestraldiscrete', 'lms', 'klms', 'lmsdiscrete'],
  ...['dpm2', 'dpm2a', 'kdpm2', 'kdpm2a', 'kdpm2discrete', 'kdpm2ancestraldiscrete', 'dpmfast', 'dpmadaptive'],
  ...['dpmpp2sa', 'dpmpp2sancestral', 'dpmppsde', 'dpmpp2msde', 'dpmpp2msdeheun', 'dpmpp3msde', 'dpmsolversinglestep'],
  ...['ddim', 'ddimcfgpp', 'ddimuniform', 'ddpm', 'plms', 'pndm', 'unipc', 'unipcmultistep', 'restart', 'deis'],
  ...['heunpp2', 'ipndm', 'resmultistep', 'ersde', 'euleracfgpp', 'eulercfgpp', 'gradientestimation', 'deismultistep'],
  ...['uniform', 'karras', 'exponential', 'polyexponential', 'kloptimal', 'alignyoursteps', 'alignyourstepsgits'],
  ...['alignyoursteps11', 'alignyoursteps32', 'turbo', 'linearquadratic', 'karrasdpm'],
])

/** A name without case, spaces and marks: `DPM++ 2M` and `dpmpp_2m` are `dpmpp2m`. */
const simplify = (name: string) =>
  name
    .toLowerCase()
    .replaceAll('+', 'p')
    .replaceAll(/[^a-z0-9]/g, '')
    .replace(/scheduler$/, '')

function find<T extends string>(table: Readonly<Record<T, NamedValue>>, name: string): T | undefined {
  const entries = Object.entries(table) as [T, NamedValue][]
  return entries.find(([, { names }]) => names.includes(name))?.[0]
}

type Meaning = Sampling & { isOther?: true }

/** The meaning of a name of a sampler or a schedule; null if it is unknown. */
function findName(name: string): Meaning | null {
  if (ANY.has(name)) return {}
  const [sampler, schedule] = [find(SAMPLER_NAMES, name), find(SCHEDULE_NAMES, name)]
  if (sampler) return { sampler }
  if (schedule) return { noise_schedule: schedule }
  return OTHERS.has(name) ? { isOther: true } : null
}

/** The same, including a sampler followed by a schedule, such as `DPM++ 2M Karras`. */
function interpret(name: string): Meaning | null {
  const whole = findName(name)
  if (whole) return whole
  for (let at = 1; at < name.length; at++) {
    const [first, second] = [findName(name.slice(0, at)), findName(name.slice(at))]
    if (first && second) return { ...first, ...second }
  }
  return null
}

const LABELS = [...Object.values(SAMPLER_NAMES), ...Object.values(SCHEDULE_NAMES)].map(({ label }) => label).join(', ')

/** The message for a name with a counterpart for only the sampler or only the schedule. */
const createSubstitutionWarning = (param: string, value: string, used: string) =>
  `${param} is ${formatValue(value)}, of which only the ${used.replace('_', ' ')} has an effect here.`

/**
 * The native fields of parameters with names of samplers or schedules, with a warning for a known name without a counterpart or with a
 * partial one. The first parameter of each kind applies. Errors: invalid_request for an unknown name.
 */
export function readSampling(given: Readonly<Record<string, string | undefined>>, ignored: (name: string) => Warning) {
  const fields: Sampling = {}
  const warnings: Warning[] = []
  for (const [param, value] of Object.entries(given)) {
    if (value === undefined) continue
    const meaning = interpret(simplify(value))
    if (!meaning) {
      const message = `${param} is ${formatValue(value)}; it must be one of ${LABELS}.`
      throw new ApiError('invalid_request', message, { param })
    }
    const { isOther, ...found } = meaning
    Object.assign(fields, { ...found, ...fields })
    const [used] = Object.keys(found)
    if (isOther)
      warnings.push(
        used ? { code: 'parameter_ignored', message: createSubstitutionWarning(param, value, used) } : ignored(param),
      )
  }
  return { fields, warnings }
}
