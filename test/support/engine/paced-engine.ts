// An engine without a model, for tests of protocol and scheduling. Each step waits for the test's permission.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type JobRequest, seedOf } from '../../../gpu-fn/contract.ts'
import type { Engine, Model } from '../../../gpu-fn/engine/engine.ts'
import type { PipelineEvent } from '../../../gpu-fn/pipeline/events.ts'

export const pacedModel: Model = {
  model: 'tiny',
  tier: 'fp8',
  package: 'f'.repeat(64),
  side: { max: 128, multipleOf: 32 },
  inputImage: true,
}

export interface PacedEngine extends Engine {
  /** Lets this many more steps happen, in whatever jobs. */
  allow(steps: number): void
  /** The requests that were run, in order. */
  readonly runs: JobRequest[]
}

/** Starts with `steps` allowed. A prompt `throw …` fails with that text after one step; `bytes n` makes an image of n bytes. */
export function createPacedEngine(steps = Number.POSITIVE_INFINITY): PacedEngine {
  let allowed = steps
  const runs: JobRequest[] = []
  return {
    models: [pacedModel],
    loras: new Map([['style', { package: 'e'.repeat(64), rank: 4 }]]),
    controlnets: new Map([['canny', { package: 'c'.repeat(64) }]]),
    runs,
    allow: (more) => {
      allowed += more
    },
    start: () => Promise.resolve(),
    load: () => Promise.resolve({ device: 'paced', seconds: runs.length === 0 ? 1.5 : 0 }),
    warm: () => Promise.resolve({ sizes: [] }),
    async *run(_, request, signal) {
      runs.push(request)
      yield { type: 'encoded', seconds: 0.25 }
      for (let image = 0; image < request.count; image++) {
        for (let step = 1; step <= request.steps; step++) {
          while (allowed < 1 && !signal.aborted) await nextTurn()
          signal.throwIfAborted()
          allowed -= 1
          yield { type: 'step', image, step, steps: request.steps }
          if (request.prompt.startsWith('throw ')) throw new Error(request.prompt.slice(6))
        }
        yield imageOf(request, image)
      }
      yield { type: 'finished', timings: { encode: 0.25, denoise: 2, decode: 0.5 } }
    },
    stop: () => Promise.resolve(),
  }
}

function imageOf({ prompt, seed, width, height }: JobRequest, image: number): PipelineEvent {
  const size = Number(/^bytes (\d+)$/.exec(prompt)?.[1] ?? 100)
  const data = new Uint8Array(size).fill(Number(seed) + image)
  return { type: 'image', image, seed: seedOf(seed, image), width, height, content_type: 'image/png', data }
}
