// An engine without a model: it paces steps, and its images are bytes that follow from the seed, so that anybody can tell them.
import { setTimeout as sleep } from 'node:timers/promises'
import type { JobRequest } from '../../gpu-fn/contract.ts'
import type { Engine } from '../../gpu-fn/engine.ts'

export const MODELLESS = { model: 'modelless', tier: 'fp8' } as const
/** A request with this prompt fails by a fault of the engine. */
export const FAULTY_PROMPT = 'fails'

/** The bytes of the image that a seed stands for; some 20 kB, no two alike. */
export function bytesOf(seed: number): Buffer {
  return Buffer.alloc(20_000 + (seed % 997), `${seed},`)
}

/** `stepMs` is the time of a step. */
export function createModellessEngine(stepMs: number): Engine {
  return {
    models: [{ ...MODELLESS, package: 'a'.repeat(64), side: { max: 1024, multipleOf: 16 } }],
    start: () => Promise.resolve(),
    load: () => Promise.resolve({ device: 'modelless', seconds: 0 }),
    warm: () => Promise.resolve({ sizes: [] }),
    async *run(_, request, signal) {
      yield { type: 'encoded', seconds: 0 }
      for (let image = 0; image < request.count; image++) {
        for (let step = 1; step <= request.steps; step++) {
          await sleep(stepMs)
          signal.throwIfAborted()
          yield { type: 'step', image, step, steps: request.steps }
        }
        if (request.prompt === FAULTY_PROMPT) throw new Error('the engine breaks')
        yield imageOf(request, image)
      }
      yield { type: 'finished', timings: { encode: 0, denoise: 0, decode: 0 } }
    },
    stop: () => Promise.resolve(),
  }
}

function imageOf({ seed, width, height }: JobRequest, image: number) {
  const own = (seed + image) % 2 ** 32
  return { type: 'image', image, seed: own, width, height, content_type: 'image/png', data: bytesOf(own) } as const
}
