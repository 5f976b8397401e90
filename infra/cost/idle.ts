// `npm run cost -- --idle-windows`: the idle window that follows the traffic, against fixed windows, on the same arrivals.
import { chooseWindow, NO_GAPS, recordGap, WINDOWS } from '../../edge/gpu/idle-window.ts'
import { randomOf } from '../command/random.ts'
import { estimateColdSeconds, estimateServiceSeconds } from './model.ts'
import { type IdlePolicy, type Outcome, simulate } from './simulate.ts'
import { drawArrivals, TRAFFIC, type Traffic } from './traffic.ts'

const IMAGES_PER_DAY = [50, 200, 1_000, 5_000]
const IMAGES = 40_000
const DAY = 86_400
/** Window of the default configuration, in seconds. */
const DEFAULT_WINDOW = 120
/** Costs of a caller's wait for a start, as multiples of the cost of the start. */
const WAIT_WORTHS = [-0.75, 0, 0.5, 1, 2, 3, 5, 8, 12, 20, 40]
/** Tolerance for equal p95, in seconds. */
const P95_TOLERANCE = 0.1

function createAdaptivePolicy(cold: number): IdlePolicy {
  let gaps = NO_GAPS
  return {
    observe: (gap) => {
      gaps = recordGap(gaps, gap)
    },
    window: () => chooseWindow(gaps, cold, DEFAULT_WINDOW),
  }
}

type Load = { service: number; cold: number }

/**
 * Offline optimum (all arrivals known) of container time without waits for a start: a container may start ahead of an image, so a gap between
 * images costs the lesser of its duration and a start.
 */
function findOptimumWithoutWaits(arrivals: Float64Array, { service, cold }: Load): number {
  let [end, total] = [Number.NEGATIVE_INFINITY, 0]
  for (const at of arrivals) {
    total += service + Math.min(Math.max(0, at - end), cold)
    end = Math.max(end, at) + service
  }
  return total
}

/** State of the dynamic program: container time `total` until `end`, the completion of all images so far. */
type DynamicState = { end: number; total: number }

/**
 * Offline optimum (all arrivals known) of container time if the only container starts on demand. Images that arrive during a start are served
 * after it. Dynamic program over the images: before each one, the container is either kept warm or stopped.
 */
function findOptimumWithWaits(arrivals: Float64Array, { service, cold }: Load): number {
  /** Non-dominated states by number of served images. */
  const states = new Map<number, DynamicState[]>([[0, [{ end: Number.NEGATIVE_INFINITY, total: 0 }]]])
  const add = (served: number, state: DynamicState) => {
    const others = states.get(served) ?? []
    // A container that ended earlier may be kept until the later end.
    const isWorse = (a: DynamicState, b: DynamicState) => b.total + Math.max(0, a.end - b.end) <= a.total
    if (others.some((other) => isWorse(state, other))) return
    states.set(served, [...others.filter((other) => !isWorse(other, state)), state])
  }
  for (const [k, at] of arrivals.entries()) {
    for (const { end, total } of states.get(k) ?? []) {
      const start = Math.max(end, at)
      if (end > Number.NEGATIVE_INFINITY) add(k + 1, { end: start + service, total: total + start - end + service })
      if (end >= at) continue
      let [served, last] = [k, at + cold]
      for (; served < arrivals.length && arrivals[served]! <= last; served++) last += service
      add(served, { end: last, total: total + last - at })
    }
    states.delete(k)
  }
  return Math.min(...states.get(arrivals.length)!.map(({ total }) => total))
}

type Point = { name: string; outcome: Outcome }
/** `fast`: fewer than 5 % of images wait for a start. */
export type IdleRow = {
  traffic: Traffic
  imagesPerDay: number
  fast: boolean
  fixed: Point
  adaptive: Point
  /** Container time of the adaptive window, and of the offline optimum, relative to the fixed window. */
  ratio: number
  optimum: number
  /** Container time of the cheapest adaptive window relative to the default window, at an equal or shorter p95. */
  toDefault: number
}

/** The cheapest fixed and the cheapest adaptive window of each class of p95. Omits a class without a fixed window. */
export function compareWindows(traffic: Traffic, imagesPerDay: number, images = IMAGES): IdleRow[] {
  const rate = imagesPerDay / DAY
  const arrivals = drawArrivals(traffic, rate, images, randomOf(1, `idle ${traffic} ${imagesPerDay}`))
  const [service, cold] = [
    estimateServiceSeconds('large-turbo', 'fp8', 'H100'),
    estimateColdSeconds('large-turbo', 'fp8'),
  ]
  const fleet = { service: () => service, coldSeconds: cold, minContainers: 0, maxContainers: 4 }
  const run = (idleSeconds: number | IdlePolicy) => simulate(arrivals, { ...fleet, idleSeconds })
  const fixed = WINDOWS.map((seconds) => ({ name: `${seconds} s`, outcome: run(seconds) }))
  const learned = WAIT_WORTHS.map((worth) => ({
    name: `worth ${worth}`,
    outcome: run(createAdaptivePolicy(cold * (1 + worth))),
  }))
  const standard = { name: `${DEFAULT_WINDOW} s`, outcome: run(DEFAULT_WINDOW) }
  const equallyFast = findCheapest(learned.filter(({ outcome }) => outcome.p95 <= standard.outcome.p95 + P95_TOLERANCE))
  const toDefault = equallyFast ? computeCost(equallyFast) / computeCost(standard) : 1
  const load = { service, cold }
  return [true, false].flatMap((fast) => {
    const isWithin = (points: Point[]) => points.filter(({ outcome }) => !fast || outcome.p95 < cold / 2)
    const [best, own] = [fixed, learned].map((points) => findCheapest(isWithin(points)))
    if (!best || !own) return []
    const optimum = fast ? findOptimumWithoutWaits(arrivals, load) : findOptimumWithWaits(arrivals, load)
    const ratios = { ratio: computeCost(own) / computeCost(best), optimum: optimum / computeCost(best), toDefault }
    return [{ traffic, imagesPerDay, fast, fixed: best, adaptive: own, ...ratios }]
  })
}

const findCheapest = (points: Point[]): Point | undefined =>
  points.toSorted((a, b) => computeCost(a) - computeCost(b))[0]
const computeCost = ({ outcome }: Point) => outcome.containerSeconds

export function printIdle(): void {
  console.log(
    'Container hours per 1,000 images of Large Turbo on an H100, and p95 in seconds. Ratios: adaptive window and offline optimum to the best ' +
      `fixed window, and adaptive window to a fixed one of ${DEFAULT_WINDOW} s at an equal or shorter p95`,
  )
  for (const traffic of TRAFFIC)
    for (const row of IMAGES_PER_DAY.flatMap((imagesPerDay) => compareWindows(traffic, imagesPerDay))) {
      const { imagesPerDay, fast, fixed, adaptive, ratio, optimum, toDefault } = row
      const show = ({ name, outcome }: Point) =>
        `${name.padStart(11)} ${((1000 * outcome.containerSeconds) / outcome.images / 3600).toFixed(2).padStart(7)} h ${outcome.p95.toFixed(1).padStart(6)} s`
      console.log(
        `${traffic.padEnd(8)}${String(imagesPerDay).padStart(6)} a day ${fast ? 'p95 warm' : 'any p95 '}  fixed ${show(fixed)}  adaptive ${show(adaptive)}  ${[ratio, optimum, toDefault].map((each) => each.toFixed(2)).join(' ')}`,
      )
    }
}
