// The ControlNet of a request, under the names of several image APIs.
import * as z from 'zod'
import { additionIdOf, LIMITS } from '#contract'
import { ApiError } from '../../http/errors.ts'
import { formatValue, parseFields } from '../../http/validation.ts'

type Fields = Readonly<Record<string, unknown>>

const scale = z.number().min(0).max(LIMITS.controls.scale).describe(`a number from 0 to ${LIMITS.controls.scale}`)
const share = z.number().min(0).max(1).describe('a number from 0 to 1')
const text = z.string().describe('a text')

/** fal's ControlNet. fal.ai/models/fal-ai/stable-diffusion-v35-large/api, and `controlnets` of fal-ai/flux-general */
const falControl = z.object({
  path: text,
  control_image_url: text,
  conditioning_scale: scale.optional(),
  ...{ start_percentage: share.optional(), end_percentage: share.optional() },
})

/** A unit of the ControlNet extension. github.com/Mikubill/sd-webui-controlnet/wiki/API */
const unit = z.object({
  enabled: z.boolean().optional(),
  model: text.nullish(),
  module: text.nullish(),
  /** Older versions have `input_image`, and an object with `image` and `mask`. */
  image: z.union([text, z.object({ image: text })]).nullish(),
  input_image: text.nullish(),
  weight: scale.optional(),
  ...{ guidance_start: share.optional(), guidance_end: share.optional() },
})

type ControlFields = { controls?: unknown; control_image?: unknown }
type ControlTranslation = {
  fields: ControlFields /** The names of the fields as sent. */
  names: Record<string, string>
}

const isGiven = (value: unknown) =>
  value !== undefined && value !== null && value !== '' && !(Array.isArray(value) && value.length === 0)

/** `owner/canny`, `https://host/path/Canny.safetensors` and `canny` map to the ID `canny`. A name without letters or digits is unchanged. */
export const parseAdditionId = (name: string): string => additionIdOf(name.split(/[?#]/, 1)[0]!) || name

const removeUndefined = (fields: Fields) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))

/** The native fields for fal's `controlnets` and `controlnet`, or else those sent, which are validated later. Errors: invalid_request. */
export function readControls(given: Fields): ControlTranslation {
  const name = ['controlnets', 'controlnet'].find((each) => isGiven(given[each]))
  if (name === undefined) {
    const native = Object.fromEntries(
      ['controls', 'control_image'].flatMap((each) => (isGiven(given[each]) ? [[each, given[each]]] : [])),
    )
    return { fields: native, names: {} }
  }
  const shape = { [name]: z.array(falControl).describe(`a list of objects with path and control_image_url`) }
  const value = given[name]
  const parsed = parseFields(z.object(shape), shape, { [name]: Array.isArray(value) ? value : [value] })
  const controls = parsed[name]!.map((control) =>
    removeUndefined({
      id: parseAdditionId(control.path),
      image: control.control_image_url,
      scale: control.conditioning_scale,
      ...{ start: control.start_percentage, stop: control.end_percentage },
    }),
  )
  return { fields: { controls }, names: { controls: name } }
}

const args = z.object({ args: z.array(z.union([unit, z.boolean()])) }).describe('an object with args, a list of units')
const scripts = { alwayson_scripts: z.record(z.string(), z.unknown()).describe('an object').nullish() }
const NONE = /^none$/i

/** The native fields for A1111's `alwayson_scripts.controlnet`, and the names of the other scripts. Errors: invalid_request. */
export function readUnits(given: Fields): ControlTranslation & { others: string[] } {
  const param = 'alwayson_scripts'
  const { alwayson_scripts: all } = parseFields(z.object(scripts), scripts, { [param]: given[param] })
  const entries = Object.entries(all ?? {})
  const others = entries.map(([name]) => name).filter((name) => !/^controlnet$/i.test(name))
  const own = entries.find(([name]) => /^controlnet$/i.test(name))?.[1]
  if (own === undefined) return { fields: {}, names: {}, others }
  const parsed = parseFields(z.object({ [param]: args }), { [param]: args }, { [param]: own })
  const units = parsed[param]!.args.filter((each) => typeof each !== 'boolean')
  const active = units.filter(({ enabled = true, model }) => enabled && model && !NONE.test(model))
  const controls = active.map(({ model, module, image, input_image, weight, guidance_start, guidance_end }) => {
    if (module && !NONE.test(module))
      throw new ApiError(
        'invalid_request',
        `alwayson_scripts has the module ${formatValue(module)}; control images are used as they are, so it must be "none".`,
        { param },
      )
    const file = typeof image === 'object' ? image?.image : image
    return removeUndefined({
      // A title may end with the model's hash in brackets.
      id: parseAdditionId(model!.replace(/ \[[^\][]*\]$/, '')),
      image: file ?? input_image ?? undefined,
      ...{ scale: weight, start: guidance_start, stop: guidance_end },
    })
  })
  if (controls.length === 0) return { fields: {}, names: {}, others }
  return { fields: { controls }, names: { controls: param }, others }
}
