// A day of a GPU function that scales with its traffic, event by event: what a picture costs, how long it takes, how often it starts cold.
import TinyQueue from 'tinyqueue'

export type Fleet = {
  /** How long a picture takes on a warm container, in seconds; called for each. */
  service: () => number
  /** From asking for a container to its being ready, paid for. */
  coldSeconds: number
  /** A container without work ends after this. */
  idleSeconds: number
  minContainers: number
  maxContainers: number
}

export type Outcome = {
  images: number
  /** Seconds that containers existed, starts and idleness included. */
  containerSeconds: number
  /** Seconds in which they worked. */
  busySeconds: number
  /** Share of pictures that waited for a container to start. */
  coldShare: number
  meanWait: number
  p50: number
  p95: number
  peakContainers: number
  /** Length of the time that was simulated. */
  seconds: number
}

type Event = { at: number; kind: 'ready' | 'done' | 'idle'; container: Container }
type Container = { since: number; idleSince: number; working: boolean; gone: boolean }

/**
 * Pictures are served first come, first served. One that finds no free container asks for a new one, unless as many start as pictures wait or
 * there are as many as there may be. The container that was used last is used first, so that others can end.
 */
export function simulate(arrivals: Float64Array, fleet: Fleet): Outcome {
  const { coldSeconds, idleSeconds, minContainers, maxContainers } = fleet
  const events = new TinyQueue<Event>([], (a, b) => a.at - b.at)
  const free: Container[] = []
  const waiting: { at: number; cold: boolean }[] = []
  const latency = new Float64Array(arrivals.length)
  let head = 0
  let served = 0
  let [containers, starting, peak] = [minContainers, 0, minContainers]
  let [containerSeconds, busySeconds, coldCount, waitSum] = [0, 0, 0, 0]
  const end = arrivals.at(-1) ?? 0
  for (let k = 0; k < minContainers; k++) free.push({ since: 0, idleSince: 0, working: false, gone: false })

  function serve(container: Container, now: number, arrived: number, cold: boolean): void {
    const seconds = fleet.service()
    container.working = true
    busySeconds += seconds
    waitSum += now - arrived
    if (cold) coldCount += 1
    latency[served++] = now + seconds - arrived
    events.push({ at: now + seconds, kind: 'done', container })
  }

  function release(container: Container, now: number) {
    container.working = false
    const next = waiting[head]
    if (next) {
      head += 1
      return serve(container, now, next.at, next.cold)
    }
    container.idleSince = now
    free.push(container)
    events.push({ at: now + idleSeconds, kind: 'idle', container })
  }

  function expire(container: Container, now: number): void {
    const idle = !container.working && !container.gone && now - container.idleSince >= idleSeconds - 1e-9
    if (!idle || containers <= minContainers) return
    container.gone = true
    free.splice(free.indexOf(container), 1)
    containers -= 1
    containerSeconds += now - container.since
  }

  function happen({ at, kind, container }: Event): void {
    if (kind === 'ready') starting -= 1
    if (kind === 'idle') expire(container, at)
    else release(container, at)
  }

  for (const now of arrivals) {
    for (let next = events.peek(); next && next.at <= now; next = events.peek()) happen(events.pop()!)
    const container = free.pop()
    if (container) {
      serve(container, now, now, false)
      continue
    }
    const starts = containers < maxContainers && starting <= waiting.length - head
    waiting.push({ at: now, cold: starts || starting > 0 })
    if (!starts) continue
    const started = { since: now, idleSince: now, working: false, gone: false }
    containers += 1
    starting += 1
    peak = Math.max(peak, containers)
    events.push({ at: now + coldSeconds, kind: 'ready', container: started })
  }
  // The last pictures are finished, and what runs is paid for until it ends.
  let last = end
  for (let next = events.pop(); next; next = events.pop()) {
    last = next.at
    happen(next)
  }
  containerSeconds += minContainers * last
  const sorted = latency.subarray(0, served).sort()
  const quantile = (q: number) => sorted[Math.min(served - 1, Math.ceil(q * served) - 1)] ?? 0
  return {
    ...{ images: served, containerSeconds, busySeconds, coldShare: coldCount / served, meanWait: waitSum / served },
    ...{ p50: quantile(0.5), p95: quantile(0.95), peakContainers: peak, seconds: last },
  }
}
