// An engine without a model: its steps take a fixed time, and its images are bytes derived from the seed, so that tests can verify them.
import { setTimeout as sleep } from 'node:timers/promises'
import { type JobRequest, type Seed, seedOf } from '../../../gpu-fn/contract.ts'
import type { Engine } from '../../../gpu-fn/engine/engine.ts'

const MODELLESS = { model: 'modelless', tier: 'fp8' } as const
/** The catalog's offer of this engine. */
export const MODELLESS_OFFER = {
  ...MODELLESS,
  route: 'full',
  steps: 4,
  guidance_scale: 4,
  width: 64,
  height: 64,
  max_pixels: 4096,
} as const
/** A request with this prompt fails with an engine fault. */
export const FAULTY_PROMPT = 'fails'
/** Steps take ten times as long if the prompt begins with this. */
export const SLOW_PROMPT = 'slowly:'
const SLOWDOWN = 10

/** The image of a seed: about 20 kB, unique per seed. */
export function bytesOf(seed: Seed): Buffer {
  return Buffer.alloc(20_000 + Number(BigInt(seed) % 997n), `${seed},`)
}

/** `stepMs` is the duration of a step. `onRun` is called at the start of each run and returns a callback for each completed step. */
export function createModellessEngine(stepMs: number, onRun: (request: JobRequest) => () => void): Engine {
  return {
    models: [{ ...MODELLESS, package: 'a'.repeat(64), side: { max: 1024, multipleOf: 16 }, inputImage: false }],
    loras: new Map(),
    controlnets: new Map(),
    start: () => Promise.resolve(),
    load: () => Promise.resolve({ device: 'modelless', seconds: 0 }),
    warm: () => Promise.resolve({ sizes: [] }),
    async *run(_, request, signal) {
      const onStep = onRun(request)
      const paceMs = stepMs * (request.prompt.startsWith(SLOW_PROMPT) ? SLOWDOWN : 1)
      yield { type: 'encoded', seconds: 0 }
      for (let image = 0; image < request.count; image++) {
        for (let step = 1; step <= request.steps; step++) {
          await sleep(paceMs)
          signal.throwIfAborted()
          onStep()
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
  const own = seedOf(seed, image)
  return { type: 'image', image, seed: own, width, height, content_type: 'image/png', data: bytesOf(own) } as const
}
