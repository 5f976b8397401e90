// Arrival times of image requests, in seconds from the start.
import type { Random } from '../command/random.ts'

export const TRAFFIC = ['poisson', 'bursty', 'daily'] as const
export type Traffic = (typeof TRAFFIC)[number]

/** Visits: the mean number of images, and the mean pause between them. */
const VISIT = { pictures: 12, pauseSeconds: 15 }

export const drawExponential = (random: Random, mean: number) => -Math.log(1 - random.next()) * mean

/** `count` arrivals in ascending order, with a mean of `rate` per second. */
export function drawArrivals(traffic: Traffic, rate: number, count: number, random: Random): Float64Array {
  const draw = { poisson: drawPoisson, bursty: drawBursty, daily: drawDaily }[traffic]
  const times = draw(rate, count, random)
  return times.sort()
}

function drawPoisson(rate: number, count: number, random: Random): Float64Array {
  let now = 0
  return Float64Array.from({ length: count }, () => (now += drawExponential(random, 1 / rate)))
}

/** Visits are a Poisson process, and their number of images is geometric. */
function drawBursty(rate: number, count: number, random: Random): Float64Array {
  const times = new Float64Array(count)
  let visit = 0
  for (let k = 0; k < count; ) {
    visit += drawExponential(random, VISIT.pictures / rate)
    let now = visit
    do {
      times[k++] = now
      now += drawExponential(random, VISIT.pauseSeconds)
    } while (k < count && random.next() > 1 / VISIT.pictures)
  }
  return times
}

const DAY = 86_400
/** The amplitude of the rate over a day, as a share of the mean. */
const SWING = 0.95

/** A Poisson process whose rate follows the time of day as a cosine: nearly twice the mean at noon, a twentieth of it at night. */
function drawDaily(rate: number, count: number, random: Random): Float64Array {
  const times = new Float64Array(count)
  const max = rate * (1 + SWING)
  let now = 0
  for (let k = 0; k < count; ) {
    now += drawExponential(random, 1 / max)
    const share = (1 - SWING * Math.cos((2 * Math.PI * now) / DAY)) / (1 + SWING)
    if (random.next() < share) times[k++] = now
  }
  return times
}
