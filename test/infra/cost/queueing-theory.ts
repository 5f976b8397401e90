// The simulation of the cost model, compared with queueing theory where it has a closed form.
import { randomOf } from '../../../infra/command/random.ts'
import { simulate } from '../../../infra/cost/simulate.ts'
import { drawArrivals, drawExponential } from '../../../infra/cost/traffic.ts'

export type Check = { label: string; difference: number }

const check = (label: string, simulated: number, theory: number): Check => ({
  label,
  difference: Math.abs(simulated / theory - 1),
})

/** Mean wait in an M/M/c queue, in seconds: Erlang's C formula. `rate` is arrivals per second, `service` the mean in seconds. */
function computeMeanWaitMMc(rate: number, service: number, servers: number): number {
  const load = rate * service
  if (load >= servers) return Number.POSITIVE_INFINITY
  // Erlang B by its recursion, which does not overflow.
  let blocking = 1
  for (let k = 1; k <= servers; k++) blocking = (load * blocking) / (k + load * blocking)
  const waits = blocking / (1 - (load / servers) * (1 - blocking))
  return (waits * service) / (servers - load)
}

/**
 * Fraction of cold starts with single images (a Poisson process whose gaps are long compared with a start and an image): the probability
 * that the gap before an image exceeds the idle window.
 */
const computeColdShareAlone = (rate: number, idleSeconds: number) => Math.exp(-rate * idleSeconds)

/** Container seconds per image in the same case: the image, its cold start, and the idle time until the next image or the end of the window. */
function computeContainerSecondsAlone(rate: number, service: number, coldSeconds: number, idleSeconds: number): number {
  const cold = computeColdShareAlone(rate, idleSeconds)
  return service + cold * coldSeconds + (1 - cold) / rate
}

/** An M/M/c queue: `servers` permanent containers, and drawExponential service with a mean of 1 s. */
function compareMMc(servers: number, load: number, count: number): Check {
  const random = randomOf(7, `mmc ${servers} ${load}`)
  const rate = load * servers
  const { meanWait } = simulate(drawArrivals('poisson', rate, count, random), {
    ...{ service: () => drawExponential(random, 1), coldSeconds: 0, idleSeconds: 1e12 },
    ...{ minContainers: servers, maxContainers: servers },
  })
  return check(
    `M/M/${servers} at ${load * 100} % load: mean wait in seconds`,
    meanWait,
    computeMeanWaitMMc(rate, 1, servers),
  )
}

/** Single images, with an idle window of `idle` mean gaps. */
function compareSingleImages(idle: number): Check[] {
  const random = randomOf(7, `alone ${idle}`)
  const [gap, service, cold] = [1000, 0.5, 5]
  const fleet = { coldSeconds: cold, idleSeconds: idle * gap, minContainers: 0, maxContainers: 10 }
  const { coldShare, containerSeconds, images } = simulate(drawArrivals('poisson', 1 / gap, 200_000, random), {
    ...fleet,
    service: () => service,
  })
  const label = `single images, idle window ${idle} × the gap`
  return [
    check(`${label}: fraction of cold starts`, coldShare, computeColdShareAlone(1 / gap, idle * gap)),
    check(
      `${label}: container seconds per image`,
      containerSeconds / images,
      computeContainerSecondsAlone(1 / gap, service, cold, idle * gap),
    ),
  ]
}

export function runChecks(): Check[] {
  return [
    compareMMc(1, 0.5, 1_000_000),
    compareMMc(1, 0.8, 3_000_000),
    compareMMc(4, 0.8, 2_000_000),
    compareMMc(32, 0.9, 3_000_000),
    ...compareSingleImages(0.1),
    ...compareSingleImages(1),
  ]
}
