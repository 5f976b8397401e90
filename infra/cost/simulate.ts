// Event-driven simulation of a GPU function that scales with its traffic: container time, latency and cold starts.
import TinyQueue from 'tinyqueue'

export type Fleet = {
  /** Draws the service time of an image on a warm container, in seconds. */
  service: () => number
  /** Duration of a cold start, which is billed. */
  coldSeconds: number
  /** Idle time before a container ends. */
  idleSeconds: number
  minContainers: number
  maxContainers: number
}

export type Outcome = {
  images: number
  /** Total lifetime of containers, including starts and idle time. */
  containerSeconds: number
  /** Total service time. */
  busySeconds: number
  /** Fraction of images that waited for a cold start. */
  coldShare: number
  meanWait: number
  p50: number
  p95: number
  peakContainers: number
  /** Duration of the simulated period. */
  seconds: number
}

type Event = { at: number; kind: 'ready' | 'done' | 'idle'; container: Container }
type Container = { since: number; idleSince: number; working: boolean; gone: boolean }

/**
 * Images are served in order of arrival. If no container is free, an arrival starts one, unless as many containers are starting as images
 * are waiting, or the maximum is reached. The most recently used container is preferred, so that others can end.
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
  // Complete the last images, and bill containers until they end.
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
