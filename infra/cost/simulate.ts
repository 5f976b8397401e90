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
type Container = { since: number; idleSince: number; working: boolean; ended: boolean }

/**
 * Images are served in order of arrival. If no container is free, an arrival starts one, unless as many containers are starting as images
 * are waiting, or the maximum is reached. The most recently used container is preferred, so that others can end.
 */
export function simulate(arrivals: Float64Array, fleet: Fleet): Outcome {
  const simulation = new Simulation(arrivals.length, fleet)
  for (const now of arrivals) simulation.arrive(now)
  return simulation.finish(arrivals.at(-1) ?? 0)
}

class Simulation {
  readonly #fleet: Fleet
  readonly #events = new TinyQueue<Event>([], (a, b) => a.at - b.at)
  readonly #free: Container[] = []
  readonly #waiting: { at: number; cold: boolean }[] = []
  /** Number of waiting images that have been served. */
  #head = 0
  readonly #latency: Float64Array
  #served = 0
  #containers: number
  #starting = 0
  #peak: number
  #containerSeconds = 0
  #busySeconds = 0
  #coldCount = 0
  #waitSum = 0

  constructor(images: number, fleet: Fleet) {
    this.#fleet = fleet
    this.#latency = new Float64Array(images)
    this.#containers = fleet.minContainers
    this.#peak = fleet.minContainers
    for (let k = 0; k < fleet.minContainers; k++) this.#free.push(createContainer(0))
  }

  /** Processes all events until `now`, and then the arrival of an image. */
  arrive(now: number): void {
    for (let next = this.#events.peek(); next && next.at <= now; next = this.#events.peek())
      this.#process(this.#events.pop()!)
    const container = this.#free.pop()
    if (container) {
      this.#serve(container, now, now, false)
      return
    }
    const { maxContainers, coldSeconds } = this.#fleet
    const starts = this.#containers < maxContainers && this.#starting <= this.#waiting.length - this.#head
    this.#waiting.push({ at: now, cold: starts || this.#starting > 0 })
    if (!starts) return
    this.#containers += 1
    this.#starting += 1
    this.#peak = Math.max(this.#peak, this.#containers)
    this.#events.push({ at: now + coldSeconds, kind: 'ready', container: createContainer(now) })
  }

  /** Serves the remaining images and bills containers until they end. */
  finish(end: number): Outcome {
    let last = end
    for (let next = this.#events.pop(); next; next = this.#events.pop()) {
      last = next.at
      this.#process(next)
    }
    const served = this.#served
    const sorted = this.#latency.subarray(0, served).sort()
    const quantile = (q: number) => sorted[Math.min(served - 1, Math.ceil(q * served) - 1)] ?? 0
    return {
      images: served,
      containerSeconds: this.#containerSeconds + this.#fleet.minContainers * last,
      busySeconds: this.#busySeconds,
      ...{ coldShare: this.#coldCount / served, meanWait: this.#waitSum / served },
      ...{ p50: quantile(0.5), p95: quantile(0.95), peakContainers: this.#peak, seconds: last },
    }
  }

  #process({ at, kind, container }: Event): void {
    if (kind === 'ready') this.#starting -= 1
    if (kind === 'idle') this.#expire(container, at)
    else this.#release(container, at)
  }

  #serve(container: Container, now: number, arrived: number, cold: boolean): void {
    const seconds = this.#fleet.service()
    container.working = true
    this.#busySeconds += seconds
    this.#waitSum += now - arrived
    if (cold) this.#coldCount += 1
    this.#latency[this.#served++] = now + seconds - arrived
    this.#events.push({ at: now + seconds, kind: 'done', container })
  }

  #release(container: Container, now: number): void {
    container.working = false
    const next = this.#waiting[this.#head]
    if (next) {
      this.#head += 1
      this.#serve(container, now, next.at, next.cold)
      return
    }
    container.idleSince = now
    this.#free.push(container)
    this.#events.push({ at: now + this.#fleet.idleSeconds, kind: 'idle', container })
  }

  #expire(container: Container, now: number): void {
    const { idleSeconds, minContainers } = this.#fleet
    const idle = !container.working && !container.ended && now - container.idleSince >= idleSeconds - 1e-9
    if (!idle || this.#containers <= minContainers) return
    container.ended = true
    this.#free.splice(this.#free.indexOf(container), 1)
    this.#containers -= 1
    this.#containerSeconds += now - container.since
  }
}

const createContainer = (since: number): Container => ({ since, idleSince: since, working: false, ended: false })
