import { expect, test } from 'vitest'
import { type Condition, condition, guide, predictVelocity } from '../../../gpu-fn/pipeline/denoise.ts'
import { HostTensor, type Session, type Tensor } from '../../../gpu-fn/runtime/session.ts'

test('guidance scale 1 uses only the prompt, and 0 only the negative prompt', () => {
  const negative = Float32Array.of(0.5, -2, 8)
  const positive = Float32Array.of(1.5, 4, -8)
  expect([...guide(negative, positive.slice(), 0)]).toEqual([...negative])
  expect([...guide(negative, positive.slice(), 1)]).toEqual([...positive])
  expect([...guide(negative, positive.slice(), 3)]).toEqual([3.5, 16, -40])
})

const createTensor = (value: number, ...dims: number[]): Tensor => ({ data: Float32Array.of(value), dims })
const latent = createTensor(0, 1, 1, 1, 1)
const conditionOf = (transformer: Session, value: number): Condition => ({
  ...{ transformer, batch: 1, modulation: new HostTensor(createTensor(value, 1, 1, 1)) },
  context: new HostTensor(createTensor(0, 1, 1, 1)),
})
const createOptions = () => ({
  guidanceScale: 3,
  skipScale: 2,
  position: undefined,
  signal: new AbortController().signal,
})

/** A device whose velocity is the modulation. A run ends after `work`. */
function deviceOf(work: () => Promise<void>): Session & { max: number } {
  let running = 0
  const device = {
    max: 0,
    async run({ modulation }: Parameters<Session['run']>[0]) {
      device.max = Math.max(device.max, ++running)
      await work()
      running -= 1
      return { velocity: { data: (modulation as HostTensor).data.slice(), dims: [1, 1, 1, 1] } }
    },
    runOnDevice: async () => ({}),
    release: async () => {},
  }
  return device
}

test('devices run concurrently, and the conditions of one device sequentially', async () => {
  const begun = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const devices = begun.map(({ resolve }) =>
    deviceOf(async () => {
      resolve()
      await Promise.all(begun.map(({ promise }) => promise))
    }),
  )
  const [first, second] = [devices[0]!, devices[1]!]
  // The negative prompt and the one without some blocks are on the first device.
  const conditions = [conditionOf(first, 1), conditionOf(second, 4), conditionOf(first, 2)]
  expect(await predictVelocity(latent, conditions, 0, createOptions())).toEqual(Float32Array.of(1 + 3 * 3 + 2 * 2))
  expect(devices.map(({ max }) => max)).toEqual([1, 1])
})

test('a failure of one device is thrown after the runs of the others, because the caller then releases their inputs', async () => {
  const { promise, resolve } = Promise.withResolvers<void>()
  let ended = false
  const failing = deviceOf(() => Promise.reject(new Error('no memory')))
  const slow = deviceOf(async () => {
    await promise
    ended = true
  })
  const velocity = predictVelocity(latent, [conditionOf(failing, 1), conditionOf(slow, 2)], 0, createOptions())
  setTimeout(resolve, 20)
  await expect(velocity).rejects.toThrow('no memory')
  expect(ended).toBe(true)
})

test('a failure releases the conditions of the prompts before it', async () => {
  const live = new Set<string>()
  const trackTensor = (name: string) => {
    live.add(name)
    return Object.assign(new HostTensor(createTensor(0, 1, 1, 1)), { release: () => live.delete(name) })
  }
  const createFailingSession = (last: number): Session => {
    let runs = 0
    const runOnDevice = async () => {
      if (++runs > last) throw new Error('no memory')
      return {
        modulation: trackTensor(`modulation ${last} ${runs}`),
        context: trackTensor(`context ${last} ${runs}`),
      }
    }
    return { run: () => Promise.reject(new Error('not used')), runOnDevice, release: async () => {} }
  }
  const prompts = [1, 2].map((rows) => ({ rows, embeds: new Float32Array(rows), pooled: new Float32Array(1) }))
  const createConditions = (conditioning: Session, control?: Session) =>
    condition({ conditioning, transformer: conditioning }, prompts, Float32Array.of(1), { batched: true, control })
  await expect(createConditions(createFailingSession(1))).rejects.toThrow('no memory')
  await expect(createConditions(createFailingSession(2), createFailingSession(0))).rejects.toThrow('no memory')
  expect([...live]).toEqual([])
})
