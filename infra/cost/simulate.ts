// Event-driven simulation of a GPU function that scales with its traffic: container time, latency and cold starts.
import TinyQueue from 'tinyqueue'

type Fleet = {
  /** Draws the service time of an image on a warm container, in seconds. */
  service: () => number
  /** Duration of a cold start, which is billed. */
  coldSeconds: number
  /** Idle time before a container ends: fixed, or a policy that adapts to the gaps between images. */
  idleSeconds: number | IdlePolicy
  minContainers: number
  maxContainers: number
}

/** `observe` receives the seconds between the end of an image and the next arrival; `window` is the idle time of a container from now on. */
export type IdlePolicy = { observe(gap: number): void; window(now: number): number }

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
}

/** Times in seconds. `at` is the end of the start or of the latest image. */
type Container = { since: number; starting: boolean; at: number; idle: number }

/**
 * Images are served in order of arrival. If no container is free, an arrival starts one, unless as many containers are starting as images
 * are waiting, or the maximum is reached. The most recently used container is preferred, so that others can end.
 */
export function simulate(arrivals: Float64Array, fleet: Fleet): Outcome {
  const { service, coldSeconds, idleSeconds, minContainers, maxContainers } = fleet
  const policy = typeof idleSeconds === 'number' ? { observe: () => {}, window: () => idleSeconds } : idleSeconds
  const busy = new TinyQueue<Container>([], (a, b) => a.at - b.at)
  // A stack by the time of the last use, so that the container that has been idle longest is at its start.
  const free: Container[] = Array.from({ length: minContainers }, () => ({
    since: 0,
    starting: false,
    at: 0,
    idle: policy.window(0),
  }))
  const waiting: { at: number; cold: boolean }[] = []
  const latency = new Float64Array(arrivals.length)
  let [head, served, starting, containers, peakContainers] = [0, 0, 0, minContainers, minContainers]
  let [containerSeconds, busySeconds, coldCount, waitSum, lastUse] = [0, 0, 0, 0, 0]

  const serve = (container: Container, now: number, arrived: number) => {
    const seconds = service()
    busySeconds += seconds
    waitSum += now - arrived
    latency[served++] = now + seconds - arrived
    busy.push({ ...container, starting: false, at: now + seconds })
  }
  const endIdle = (now: number) => {
    while (containers > minContainers && free[0] && free[0].at + free[0].idle <= now) {
      const { at, since, idle } = free.shift()!
      containers -= 1
      containerSeconds += at + idle - since
    }
  }
  const release = (container: Container) => {
    endIdle(container.at)
    if (container.starting) starting -= 1
    const next = waiting[head]
    lastUse = container.at
    if (!next) return void free.push({ ...container, idle: policy.window(container.at) })
    head += 1
    if (next.cold) coldCount += 1
    serve(container, container.at, next.at)
  }
  for (const now of arrivals) {
    for (let next = busy.peek(); next && next.at <= now; next = busy.peek()) release(busy.pop()!)
    if (busy.length === 0 && waiting.length === head) policy.observe(now - lastUse)
    endIdle(now)
    const container = free.pop()
    if (container) {
      serve(container, now, now)
      continue
    }
    const starts = containers < maxContainers && starting <= waiting.length - head
    waiting.push({ at: now, cold: starts || starting > 0 })
    if (!starts) continue
    containers += 1
    starting += 1
    peakContainers = Math.max(peakContainers, containers)
    busy.push({ since: now, starting: true, at: now + coldSeconds, idle: 0 })
  }
  for (let next = busy.pop(); next; next = busy.pop()) release(next)
  const end = lastUse + Math.max(policy.window(lastUse), ...free.map(({ idle }) => idle))
  endIdle(end)
  const sorted = latency.sort()
  const computeQuantile = (q: number) => sorted[Math.ceil(q * served) - 1] ?? 0
  return {
    ...{ images: served, containerSeconds: containerSeconds + minContainers * end, busySeconds, peakContainers },
    ...{
      coldShare: coldCount / served,
      meanWait: waitSum / served,
      p50: computeQuantile(0.5),
      p95: computeQuantile(0.95),
    },
  }
}
