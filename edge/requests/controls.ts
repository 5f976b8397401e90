// The ControlNet of a request, and its image.
import * as z from 'zod'
import { type ControlChoice, isControlled, LIMITS, type Sampling, stepsOfRuns } from '#contract'
import { controlnetsOf, isControlnetUsable } from '../config/additions.ts'
import type { Catalog } from '../config/catalog.ts'
import { ApiError } from '../http/errors.ts'
import type { Warning } from '../routing/decision.ts'
import { chooseAdditions, type RequestedModel } from './additions.ts'

const { max, scale } = LIMITS.controls
/** Maximum length of a parsed list: more than a request can have, so that its error states the limit and what to do. */
const READ = 16
const SHAPE = `a list of ${max} object with an id, an image and, optionally, a scale from 0 to ${scale}, and start and stop from 0 to 1`

const share = z.number().min(0).max(1).optional()

/** The field `controls`. The default scale is that of the catalog, and `control_image` can replace an absent image. */
export const controlsOf = (image: z.ZodString) =>
  z
    .array(
      z.strictObject({
        id: z.string().min(1).max(200),
        image: image.optional(),
        scale: z.number().min(0).max(scale).optional(),
        ...{ start: share, stop: share },
      }),
    )
    .min(1)
    .max(READ)
    .describe(SHAPE)

type Controls = z.infer<ReturnType<typeof controlsOf>>
type ControlFields = { controls?: Controls | undefined; control_image?: string | undefined }

const refuse = (message: string, param = 'controls') => new ApiError('invalid_request', message, { param })

/** Returns the ControlNets of a request, and the catalog restricted to compatible offers. Throws the errors of chooseAdditions. */
export function chooseControls(
  given: Controls,
  requested: RequestedModel,
  catalog: Catalog,
  account: string,
): { controls: ControlChoice[]; catalog: Catalog } {
  if (given.length > max)
    throw refuse(`controls has ${given.length} entries; a request can have ${max} ControlNet. Keep one of them.`)
  const kind = { field: 'controls', noun: 'ControlNet', fits: isControlnetUsable } as const
  const ids = given.map(({ id }) => id)
  const found = chooseAdditions(kind, ids, controlnetsOf(catalog, account), requested, catalog)
  const controls = found.chosen.map(({ id, scale }, i): ControlChoice => {
    const { start, stop, scale: strength = scale } = given[i]!
    if ((start ?? 0) >= (stop ?? 1))
      throw refuse(`controls has the steps ${start ?? 0} to ${stop ?? 1}; start must be below stop.`)
    return { id, scale: strength, ...(start !== undefined && { start }), ...(stop !== undefined && { stop }) }
  })
  return { controls, catalog: found.catalog }
}

/** Warnings about ControlNets whose range contains no step. */
export function describeControls(request: Sampling): Warning[] {
  const steps = stepsOfRuns(request)
  const idle = (request.controls ?? []).filter(
    (choice) => !steps.some((step) => isControlled(choice, request.steps, step)),
  )
  return idle.map(({ id, start = 0, stop = 1 }) => {
    const message = `controls: ${id} had no effect; none of the ${request.steps} steps is between ${start} and ${stop}.`
    return { code: 'controls_ignored', message }
  })
}

/** The control image of a request; undefined if there is no `controls`. Errors: invalid_request for a missing or superfluous one. */
export function controlImageOf({ controls, control_image }: ControlFields): string | undefined {
  if (!controls && control_image !== undefined)
    throw refuse('control_image is given without controls; name a ControlNet in controls.', 'control_image')
  const own = controls?.[0]?.image
  if (own !== undefined && control_image !== undefined)
    throw refuse('control_image and the image of controls are both given; use one of them.', 'control_image')
  if (controls && own === undefined && control_image === undefined)
    throw refuse(`controls has no image; it must be ${SHAPE}.`)
  return own ?? control_image
}

/** The fields without the control image: a fingerprint has a digest of its content instead. */
export const removeControlImage = <Fields extends ControlFields>({
  control_image: _,
  controls,
  ...fields
}: Fields) => ({
  ...fields,
  ...(controls && { controls: controls.map(({ image: __, ...control }) => control) }),
})
