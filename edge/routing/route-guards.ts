// Applies a request's max_cost and max_latency_ms to the possible decisions, and adds the effect to the reason. Pure.
import { ApiError } from '../http/errors.ts'
import { formatDollars } from '../platform/units.ts'
import type { Decision, RouteRequest } from './decision.ts'

/** The price of a decision in micro-dollars, and the 95th percentile of its latency in milliseconds, null if not measured. */
export type Estimate = (decision: Decision) => { price: number; latencyMs: number | null }

type Guards = Pick<RouteRequest, 'maxCost' | 'maxLatencyMs'>
type EstimatedDecision = { decision: Decision; price: number; latencyMs: number | null }

const FINAL = { 'x-should-retry': 'false' }
const nameOf = ({ route, tier }: Decision) => `${route}/${tier}`

function createMaxCostError(estimated: EstimatedDecision[], maxCost: number): ApiError {
  const cheapest = Math.min(...estimated.map(({ price }) => price))
  const message = `max_cost is ${formatDollars(maxCost)}, but the cheapest way to serve this request costs ${formatDollars(cheapest)}.`
  return new ApiError('max_cost_exceeded', message, { param: 'max_cost', headers: FINAL })
}

function createMaxLatencyError(estimated: EstimatedDecision[], maxLatencyMs: number): ApiError {
  const quickest = Math.round(Math.min(...estimated.map(({ latencyMs }) => latencyMs ?? Number.POSITIVE_INFINITY)))
  const message = `max_latency_ms is ${maxLatencyMs}, but 95 of 100 requests like this one take up to ${quickest} ms here.`
  return new ApiError('max_latency_exceeded', message, { param: 'max_latency_ms', headers: FINAL })
}

function describeRejection({ price, latencyMs }: EstimatedDecision, { maxCost }: Guards): string {
  if (maxCost !== undefined && price > maxCost) return `costs ${formatDollars(price)}, more than max_cost`
  return latencyMs === null ? 'has not run here yet' : 'takes longer than max_latency_ms'
}

/** Sentences about the effect of the guards, for the reason of the route. Empty if they changed nothing and could be checked. */
function explainGuards(first: EstimatedDecision, chosen: EstimatedDecision, guards: Guards): string {
  const sentences = []
  if (chosen !== first) {
    const why = describeRejection(first, guards)
    sentences.push(` ${nameOf(first.decision)} ${why}, so ${nameOf(chosen.decision)} serves it.`)
  }
  if (guards.maxLatencyMs !== undefined && chosen.latencyMs === null)
    sentences.push(' Nothing like it has run here yet, so max_latency_ms could not be checked.')
  return sentences.join('')
}

/** The first decision within the guards; measured decisions take precedence. Errors: max_cost_exceeded, max_latency_exceeded. */
export function applyGuards(decisions: Decision[], guards: Guards, estimate: Estimate): Decision {
  const { maxCost = Number.POSITIVE_INFINITY, maxLatencyMs } = guards
  if (guards.maxCost === undefined && maxLatencyMs === undefined) return decisions[0]!
  const estimated = decisions.map((decision) => ({ decision, ...estimate(decision) }))
  const affordable = estimated.filter(({ price }) => price <= maxCost)
  if (affordable.length === 0) throw createMaxCostError(estimated, maxCost)
  const chosen = maxLatencyMs === undefined ? affordable[0] : findFirstInTime(affordable, maxLatencyMs)
  if (!chosen) throw createMaxLatencyError(affordable, maxLatencyMs!)
  return { ...chosen.decision, reason: `${chosen.decision.reason}${explainGuards(estimated[0]!, chosen, guards)}` }
}

const findFirstInTime = (estimated: EstimatedDecision[], maxLatencyMs: number): EstimatedDecision | undefined =>
  estimated.find(({ latencyMs }) => latencyMs !== null && latencyMs <= maxLatencyMs) ??
  estimated.find(({ latencyMs }) => latencyMs === null)
