// `npm run cost -- --idle-windows`: the idle window that follows the traffic, against fixed windows, on the same arrivals.
import { chooseWindow, NO_GAPS, recordGap, WINDOWS } from '../../edge/gpu/idle-window.ts'
import { randomOf } from '../command/random.ts'
import { coldSeconds, serviceSeconds } from './model.ts'
import { type IdlePolicy, type Outcome, simulate } from './simulate.ts'
import { drawArrivals, TRAFFIC, type Traffic } from './traffic.ts'

const IMAGES_PER_DAY = [50, 200, 1_000, 5_000]
const IMAGES = 40_000
const DAY = 86_400
/** The shortest fixed window, in seconds. */
const LEAST_FIXED = 15
/** Seconds from the arrival that a container is kept for to its end. */
const MARGIN = 1e-6
/** Costs of a caller's wait for a start, as multiples of the cost of the start. */
const WORTHS = [0, 0.5, 1, 2, 3, 5, 8, 12, 20, 40]

function adaptive(cold: number): IdlePolicy {
  let gaps = NO_GAPS
  return {
    observe: (gap) => {
      gaps = recordGap(gaps, gap)
    },
    window: () => chooseWindow(gaps, cold, 120),
  }
}

/** Keeps a container for the next arrival if that comes within `bound` seconds, and otherwise ends it at once. */
function clairvoyant(arrivals: Float64Array, bound: number): IdlePolicy {
  let next = 0
  return {
    observe: () => {},
    window(now) {
      while (next < arrivals.length && arrivals[next]! <= now) next++
      const gap = (arrivals[next] ?? Number.POSITIVE_INFINITY) - now
      return gap <= bound ? gap + MARGIN : 0
    },
  }
}

type Point = { name: string; outcome: Outcome }
/** `fast`: fewer than 5 % of images wait for a start. */
export type IdleRow = {
  traffic: Traffic
  imagesPerDay: number
  fast: boolean
  fixed: Point
  adaptive: Point
  /** With knowledge of the next arrival, for one container. */
  clairvoyant: Point
  /** Of the container time to that of the fixed window. */
  ratio: number
  least: number
}

/** The cheapest fixed and the cheapest adaptive window of each class of p95. Omits a class without a fixed window. */
export function compareWindows(traffic: Traffic, imagesPerDay: number, images = IMAGES): IdleRow[] {
  const rate = imagesPerDay / DAY
  const arrivals = drawArrivals(traffic, rate, images, randomOf(1, `idle ${traffic} ${imagesPerDay}`))
  const [service, cold] = [serviceSeconds('large-turbo', 'fp8', 'H100'), coldSeconds('large-turbo', 'fp8')]
  const fleet = { service: () => service, coldSeconds: cold, minContainers: 0, maxContainers: 4 }
  const run = (idleSeconds: number | IdlePolicy) => simulate(arrivals, { ...fleet, idleSeconds })
  const fixed = WINDOWS.filter((seconds) => seconds >= LEAST_FIXED).map((seconds) => ({
    name: `${seconds} s`,
    outcome: run(seconds),
  }))
  const learned = WORTHS.map((worth) => ({ name: `worth ${worth}`, outcome: run(adaptive(cold * (1 + worth))) }))
  const known = WORTHS.map((worth) => ({
    name: `worth ${worth}`,
    outcome: run(clairvoyant(arrivals, cold * (1 + worth))),
  }))
  return [true, false].flatMap((fast) => {
    const within = (points: Point[]) => points.filter(({ outcome }) => !fast || outcome.p95 < cold / 2)
    const [best, own, least] = [fixed, learned, known].map((points) => cheapest(within(points)))
    if (!best || !own || !least) return []
    const ratios = { ratio: cost(own) / cost(best), least: cost(least) / cost(best) }
    return [{ traffic, imagesPerDay, fast, fixed: best, adaptive: own, clairvoyant: least, ...ratios }]
  })
}

const cheapest = (points: Point[]): Point | undefined => points.toSorted((a, b) => cost(a) - cost(b))[0]
const cost = ({ outcome }: Point) => outcome.containerSeconds

export function printIdle(): void {
  console.log(
    'Container hours per 1,000 images of Large Turbo on an H100, and p95 in seconds; ratios of the adaptive window, and of a policy ' +
      'that knows the next arrival, to the best fixed window',
  )
  for (const traffic of TRAFFIC)
    for (const row of IMAGES_PER_DAY.flatMap((imagesPerDay) => compareWindows(traffic, imagesPerDay))) {
      const { imagesPerDay, fast, fixed, adaptive, clairvoyant: least } = row
      const show = ({ name, outcome }: Point) =>
        `${name.padStart(9)} ${((1000 * outcome.containerSeconds) / outcome.images / 3600).toFixed(2).padStart(7)} h ${outcome.p95.toFixed(1).padStart(6)} s`
      console.log(
        `${traffic.padEnd(8)}${String(imagesPerDay).padStart(6)} a day ${fast ? 'p95 warm' : 'any p95 '}  fixed ${show(fixed)}  adaptive ${show(adaptive)}  clairvoyant ${show(least)}  ${row.ratio.toFixed(2)} ${row.least.toFixed(2)}`,
      )
    }
}
