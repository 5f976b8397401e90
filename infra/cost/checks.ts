// The simulation against queueing theory, where that has a closed form.
import { randomOf } from '../campaign/random.ts'
import { coldShareAlone, containerSecondsAlone, meanWaitMMc } from './closed-form.ts'
import { simulate } from './simulate.ts'
import { arrivals, exponential } from './traffic.ts'

export type Check = { what: string; simulated: number; theory: number; apart: number }

const check = (what: string, simulated: number, theory: number): Check => ({
  ...{ what, simulated, theory, apart: Math.abs(simulated / theory - 1) },
})

/** An M/M/c queue: `servers` containers that stay, work that is exponential with mean 1 s. */
function mmc(servers: number, load: number, count: number): Check {
  const random = randomOf(7, `mmc ${servers} ${load}`)
  const rate = load * servers
  const { meanWait } = simulate(arrivals('poisson', rate, count, random), {
    ...{ service: () => exponential(random, 1), coldSeconds: 0, idleSeconds: 1e12 },
    ...{ minContainers: servers, maxContainers: servers },
  })
  return check(`M/M/${servers} at ${load * 100} % load: mean wait in seconds`, meanWait, meanWaitMMc(rate, 1, servers))
}

/** Pictures that come one at a time, `idle` mean gaps of grace. */
function alone(idle: number): Check[] {
  const random = randomOf(7, `alone ${idle}`)
  const [gap, service, cold] = [1000, 0.5, 5]
  const fleet = { coldSeconds: cold, idleSeconds: idle * gap, minContainers: 0, maxContainers: 10 }
  const { coldShare, containerSeconds, images } = simulate(arrivals('poisson', 1 / gap, 200_000, random), {
    ...fleet,
    service: () => service,
  })
  const what = `one at a time, idle window ${idle} × the gap`
  return [
    check(`${what}: share of cold starts`, coldShare, coldShareAlone(1 / gap, idle * gap)),
    check(
      `${what}: container seconds a picture`,
      containerSeconds / images,
      containerSecondsAlone(1 / gap, service, cold, idle * gap),
    ),
  ]
}

/** Every check; `scale` multiplies how much is simulated. */
export function runChecks(scale = 1): Check[] {
  return [
    mmc(1, 0.5, 1_000_000 * scale),
    mmc(1, 0.8, 3_000_000 * scale),
    mmc(4, 0.8, 2_000_000 * scale),
    mmc(32, 0.9, 3_000_000 * scale),
    ...alone(0.1),
    ...alone(1),
  ]
}
