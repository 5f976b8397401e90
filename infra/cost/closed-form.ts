// What queueing theory says where it says something, to hold the simulation against.

/** Mean wait of an M/M/c queue, in seconds: Erlang's C formula. `rate` arrivals a second, `service` seconds in the mean. */
export function meanWaitMMc(rate: number, service: number, servers: number): number {
  const load = rate * service
  if (load >= servers) return Number.POSITIVE_INFINITY
  // Erlang B by its recursion, which does not overflow.
  let blocking = 1
  for (let k = 1; k <= servers; k++) blocking = (load * blocking) / (k + load * blocking)
  const waits = blocking / (1 - (load / servers) * (1 - blocking))
  return (waits * service) / (servers - load)
}

/**
 * Share of cold starts where pictures come one at a time (a Poisson process, and a start and a picture are short beside the time between
 * two): the pause before it was longer than a container idles.
 */
export const coldShareAlone = (rate: number, idleSeconds: number) => Math.exp(-rate * idleSeconds)

/** Container seconds a picture in the same case: the picture, the start if it was cold, and the idle time until the next one or the end. */
export function containerSecondsAlone(rate: number, service: number, coldSeconds: number, idleSeconds: number): number {
  const cold = coldShareAlone(rate, idleSeconds)
  return service + cold * coldSeconds + (1 - cold) / rate
}
