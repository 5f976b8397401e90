// Reads the files of the most requested models into the page cache while the device is idle, so that opening one of them costs a copy.
import type { Engine, Model } from '../engine/engine.ts'

const HALF_LIFE_MS = 10 * 60_000
/** Minimum idle time: a pause between two jobs is shorter. */
const IDLE_MS = 1_000

export type Prefetch = {
  /** Called for each job or prewarming of a model. */
  requested(model: Model): void
  /** Called when the device becomes idle. */
  idle(): void
  /** Called when the device gets work. */
  busy(): void
}

/** Orders models by their requests, with a half-life of ten minutes. A model is read once; then the system decides what stays. */
export function createPrefetch(engine: Pick<Engine, 'models' | 'prefetch'>): Prefetch {
  const requests = new Map<Model, { count: number; at: number }>()
  const read = new Set<Model>()
  let timer: NodeJS.Timeout | undefined
  let reading: AbortController | undefined
  const countOf = (model: Model) => {
    const { count, at } = requests.get(model) ?? { count: 0, at: 0 }
    return count * 2 ** ((at - performance.now()) / HALF_LIFE_MS)
  }
  async function readAll({ signal }: AbortController): Promise<void> {
    for (const model of engine.models.toSorted((a, b) => countOf(b) - countOf(a))) {
      if (signal.aborted) return
      if (read.has(model)) continue
      await engine.prefetch?.(model, signal)
      if (!signal.aborted) read.add(model)
    }
  }
  return {
    requested: (model) => void requests.set(model, { count: countOf(model) + 1, at: performance.now() }),
    idle() {
      clearTimeout(timer)
      timer = setTimeout(() => {
        reading = new AbortController()
        void readAll(reading)
      }, IDLE_MS).unref()
    },
    busy() {
      clearTimeout(timer)
      reading?.abort()
    },
  }
}
