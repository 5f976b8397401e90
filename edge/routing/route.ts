// Chooses the offer for a request and the reason. Pure: the same request and catalog produce the same decision.
import { hasT5, type Route } from '#contract'
import type { Catalog, Offer } from '../config/catalog.ts'
import { ApiError } from '../http/errors.ts'
import type { Decision, RouteRequest } from './decision.ts'
import { applyGuards, type Estimate } from './route-guards.ts'
import { findNearestSize, fitsSize } from './size.ts'

/** A firm preference is an explicit choice of the caller. The available offers override any other preference. */
type Preference = { route: Route; reason: string; isFirm: boolean }

// CLIP reads 77 tokens of about four characters each. Only T5 reads the rest of a prompt.
const CLIP_CHARACTERS = 300
const TURBO_STEPS = 8
const QUOTED_CHARACTERS = 200
/** Opening quotation marks and their closing marks. */
const CLOSING: Record<string, string> = { '"': '"', '“': '”', '«': '»', '„': '“”', "'": "'’", '‘': "'’" }
const MARKS = new Set(Object.values(CLOSING).flatMap((marks) => [...marks]))
/** These marks are also apostrophes, so they delimit a quotation only next to spaces or punctuation. */
const APOSTROPHES = "'‘"

/** Whether the characters (code points) from `start` to `end` form a quotation of 1 to 200 characters. */
function isQuotation(characters: readonly string[], start: number, end: number): boolean {
  const length = end - start - 1
  if (length < 1 || length > QUOTED_CHARACTERS) return false
  if (!APOSTROPHES.includes(characters[start]!)) return true
  const [before, after] = [characters[start - 1] ?? ' ', characters[end + 1] ?? '']
  return /[\s(]/.test(before) && /^($|[\s.,;:!?)])/.test(after)
}

/** Whether the prompt requests text in the image, that is, contains a quotation. A single pass from the end, so that the time is linear. */
export function requestsText(prompt: string): boolean {
  const characters = [...prompt]
  /** The nearest position of each closing mark after the current character. */
  const next = new Map<string, number>()
  for (let at = characters.length - 1; at >= 0; at--) {
    const character = characters[at]!
    const closing = [...(CLOSING[character] ?? '')].map((mark) => next.get(mark) ?? Number.POSITIVE_INFINITY)
    if (closing.length > 0 && isQuotation(characters, at, Math.min(...closing))) return true
    if (MARKS.has(character)) next.set(character, at)
  }
  return false
}

function preferRoute(request: RouteRequest): Preference {
  const { route, quality, steps, guidanceScale, negativePrompt, guidanceFields = [], isCached, prompt } = request
  const isFirm = !request.isQualityHint
  if (route) return { route, isFirm: true, reason: `The request names the ${route} route.` }
  if (quality === 'draft' || quality === 'low')
    return { route: 'turbo', isFirm, reason: `Quality "${quality}" is the turbo route.` }
  if (quality === 'high') return { route: 'full', isFirm, reason: 'Quality "high" is the full route.' }
  if (guidanceScale !== undefined && guidanceScale > 1)
    return {
      route: 'full',
      isFirm: true,
      reason: `guidance_scale ${guidanceScale} needs guidance, which the full route runs.`,
    }
  if (requestsText(prompt))
    return {
      route: 'full',
      isFirm: false,
      reason: 'The prompt quotes text to be drawn, which needs T5 and the full steps.',
    }
  if (negativePrompt)
    return {
      route: 'full',
      isFirm: false,
      reason: 'The full route has guidance, required for negative_prompt.',
    }
  if (guidanceFields.length > 0)
    return {
      route: 'full',
      isFirm: false,
      reason: `The full route has guidance, required for ${guidanceFields.join(' and ')}.`,
    }
  if (isCached) return { route: 'full', isFirm: true, reason: 'The full route has step caching, required for cache.' }
  if (steps !== undefined && steps <= TURBO_STEPS)
    return { route: 'turbo', isFirm: false, reason: `${steps} steps suit the turbo route.` }
  if (steps !== undefined) return { route: 'full', isFirm: false, reason: `${steps} steps suit the full route.` }
  if (prompt.length > CLIP_CHARACTERS)
    return {
      route: 'full',
      isFirm: false,
      reason: 'The prompt is longer than CLIP reads, so T5 and the full steps serve it.',
    }
  return {
    route: 'turbo',
    isFirm: false,
    reason: 'A short prompt without special demands: the turbo route is quick and good.',
  }
}

/** Returns the offers that satisfy the request, on any route. An explicit tier overrides the T5 requirement (fp8-lite has no T5). */
function filterOffers({ prompt, model, tier, size, isCached }: RouteRequest, { offers }: Catalog): Offer[] {
  const needsT5 = tier === undefined && requestsText(prompt)
  const fits = offers.filter(
    (offer) =>
      (model === undefined || offer.model === model) &&
      (!isCached || offer.route === 'full') &&
      (tier ? offer.tier === tier : hasT5(offer.tier) || !needsT5) &&
      (size === undefined || fitsSize(offer, size)),
  )
  const lacksT5 = ({ tier }: Offer) => Number(!hasT5(tier))
  return prompt.length > CLIP_CHARACTERS ? fits.toSorted((a, b) => lacksT5(a) - lacksT5(b)) : fits
}

const formatSize = ({ width, height }: { width: number; height: number }) => `${width}x${height}`
const listDistinct = (values: readonly string[]) => [...new Set(values)].join(', ')

function createNotOfferedError(request: RouteRequest, preference: Preference, catalog: Catalog): ApiError {
  const { offers } = catalog
  const { model, tier, size, isCached, additions = [] } = request
  const models = listDistinct(offers.map((offer) => offer.model))
  if (model !== undefined && !offers.some((offer) => offer.model === model))
    return new ApiError('not_offered', `model is "${model}"; this deployment serves auto, ${models}.`, {
      param: 'model',
    })
  const requested = [
    `route ${preference.route}`,
    model && `model ${model}`,
    tier && `tier ${tier}`,
    size && `size ${formatSize(size)}`,
    isCached && 'cache fast',
  ]
  const served = offers.map(
    ({ route, model, tier, max_pixels, max_side }) =>
      `${route}/${model}/${tier} up to ${max_pixels} pixels and a side of ${max_side}`,
  )
  const fitting = additions.length > 0 ? ` with these ${additions.join(' and ')}` : ''
  const message = `Nothing here serves ${requested.filter(Boolean).join(', ')}${fitting}; there is ${listDistinct(served)}.`
  const other = size && filterOffers({ ...request, size: undefined }, catalog)[0]
  if (!other) return new ApiError('not_offered', message)
  const valid = ` A valid size is ${formatSize(findNearestSize(other, size))}.`
  return new ApiError('not_offered', `${message}${valid}`, { param: 'size' })
}

/** The size of a decision: the requested one, the offer's nearest to the wanted one, or the offer's default. */
function chooseSize({ size, wantedSize }: RouteRequest, offer: Offer): { width: number; height: number } {
  if (size) return size
  return wantedSize ? findNearestSize(offer, wantedSize) : { width: offer.width, height: offer.height }
}

const createDecision = (request: RouteRequest, preference: Preference, offer: Offer): Decision => ({
  route: offer.route,
  tier: offer.tier,
  model: offer.model,
  endpoint: offer.endpoint,
  ...(offer.fallbacks && { fallbacks: offer.fallbacks }),
  steps: request.steps ?? offer.steps,
  guidanceScale: offer.route === 'turbo' ? 1 : (request.guidanceScale ?? offer.guidance_scale),
  sampler: offer.sampler,
  ...chooseSize(request, offer),
  reason: preference.reason,
})

/** All acceptable decisions, best first: those of the preferred route, then those of the other routes unless the request names the route. */
function listCandidates(request: RouteRequest, preference: Preference, catalog: Catalog): Decision[] {
  const offers = filterOffers(request, catalog)
  const served = offers.filter(({ route }) => route === preference.route)
  const others = preference.isFirm ? [] : offers.filter(({ route }) => route !== preference.route)
  const only = served.length > 0 ? '' : ` Here only the ${others[0]?.route} route serves this request.`
  return [
    ...served.map((offer) => createDecision(request, preference, offer)),
    ...others.map((offer) => ({
      ...createDecision(request, preference, offer),
      reason: `${preference.reason}${only}`,
    })),
  ]
}

/**
 * Chooses route, tier, model, steps and size. `estimate` is called if the request has a max_cost or a max_latency_ms. Throws ApiError
 * if the request is contradictory, no offer matches it, or no offer is within these limits.
 */
export function chooseRoute(request: RouteRequest, catalog: Catalog, estimate: Estimate): Decision {
  const preference = preferRoute(request)
  const { guidanceScale, isCached } = request
  if (preference.route === 'turbo' && guidanceScale !== undefined && guidanceScale > 1) {
    const message = `guidance_scale is ${guidanceScale}, but the turbo route runs without guidance; leave it out or choose route "full".`
    throw new ApiError('invalid_request', message, { param: 'guidance_scale' })
  }
  if (preference.route === 'turbo' && preference.isFirm && isCached) {
    const message = 'cache is "fast", but the turbo route has no step caching; leave it out or choose route "full".'
    throw new ApiError('invalid_request', message, { param: 'cache' })
  }
  const { wantedSize } = request
  const exact =
    wantedSize && 'width' in wantedSize ? listCandidates({ ...request, size: wantedSize }, preference, catalog) : []
  const decisions = exact.length > 0 ? exact : listCandidates(request, preference, catalog)
  if (decisions.length === 0) throw createNotOfferedError(request, preference, catalog)
  return applyGuards(decisions, request, estimate)
}
