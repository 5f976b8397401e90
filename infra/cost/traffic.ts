// Arrival times of image requests, in seconds from the start.
import type { Random } from '../campaign/random.ts'

export const TRAFFIC = ['poisson', 'bursty'] as const
export type Traffic = (typeof TRAFFIC)[number]

/** Visits: the mean number of images, and the mean pause between them. */
const VISIT = { pictures: 12, pauseSeconds: 15 }

export const exponential = (random: Random, mean: number) => -Math.log(1 - random.next()) * mean

/** `count` arrivals in ascending order, with a mean of `rate` per second. */
export function arrivals(traffic: Traffic, rate: number, count: number, random: Random): Float64Array {
  const times = traffic === 'poisson' ? poisson(rate, count, random) : bursty(rate, count, random)
  return times.sort()
}

function poisson(rate: number, count: number, random: Random): Float64Array {
  let now = 0
  return Float64Array.from({ length: count }, () => (now += exponential(random, 1 / rate)))
}

/** Visits are a Poisson process, and their number of images is geometric. */
function bursty(rate: number, count: number, random: Random): Float64Array {
  const times = new Float64Array(count)
  let visit = 0
  for (let k = 0; k < count; ) {
    visit += exponential(random, VISIT.pictures / rate)
    let now = visit
    do {
      times[k++] = now
      now += exponential(random, VISIT.pauseSeconds)
    } while (k < count && random.next() > 1 / VISIT.pictures)
  }
  return times
}
