// Warnings about differences between a request and the routing decision.
import type { Route } from '#contract'
import type { Decision, WantedSize, Warning } from '../routing/decision.ts'
import { fieldsOfGuidance } from './image-options.ts'

/** The qualities that name a route. */
const QUALITY_ROUTES: Readonly<Record<string, Route>> = { draft: 'turbo', low: 'turbo', high: 'full' }

type RequestedRoute = Parameters<typeof fieldsOfGuidance>[0] & { model: string; quality: string; route: string }

/** Warnings about a decision that differs from the request. */
export function describeAdjustments(
  { model, quality, route, ...options }: RequestedRoute,
  decision: Decision,
  wanted?: WantedSize,
): Warning[] {
  const warnings: Warning[] = []
  const size = `${decision.width}x${decision.height}`
  if (model !== 'auto' && model !== decision.model)
    warnings.push({ code: 'model_replaced', message: `model "${model}" is served by ${decision.model}.` })
  if (wanted && 'width' in wanted && size !== `${wanted.width}x${wanted.height}`) {
    const message = `size ${wanted.width}x${wanted.height} is served as ${size}, the nearest size of ${decision.model}.`
    warnings.push({ code: 'size_adjusted', message })
  }
  const wantedRoute = route === 'auto' ? QUALITY_ROUTES[quality] : undefined
  if (wantedRoute && wantedRoute !== decision.route) {
    const message = `quality "${quality}" had no effect: it is the ${wantedRoute} route, and ${decision.model} has only the ${decision.route} route.`
    warnings.push({ code: 'quality_ignored', message })
  }
  for (const name of decision.guidanceScale > 1 ? [] : fieldsOfGuidance(options)) {
    const message = `${name} had no effect: it requires guidance, and this job ran at guidance_scale ${decision.guidanceScale}.`
    warnings.push({ code: `${name}_ignored`, message })
  }
  return warnings
}
