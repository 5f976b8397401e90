import { expect, test } from 'vitest'
import { StepBatches } from '../../../gpu-fn/engine/step-batches.ts'
import type { Session, Tensor } from '../../../gpu-fn/runtime/session.ts'

/** A session that adds `bias` to each sample's latent, and the number of samples of each of its runs. */
function createAddingSession(fails: (samples: number) => boolean = () => false) {
  const runs: number[] = []
  const session: Session = {
    async run({ latent, modulation }) {
      const { data, dims } = latent as Tensor
      const added = (modulation as Tensor).data
      runs.push(dims[0]!)
      if (fails(dims[0]!)) throw new Error(`no memory for ${dims[0]} samples`)
      const size = data.length / dims[0]!
      const sum = Float32Array.from(data as Float32Array, (value, i) => value + Number(added[Math.floor(i / size)]))
      return { velocity: { data: sum, dims } }
    },
    runOnDevice: () => Promise.reject(new Error('not used')),
    release: () => Promise.resolve(),
  }
  return { session, runs }
}

/** Inputs of samples with these values, whose results are ten times as large. */
const inputsOf = (values: number[], width = 2) => ({
  latent: {
    data: Float32Array.from(values.flatMap((value) => new Array(width).fill(value))),
    dims: [values.length, width],
  },
  modulation: { data: Float32Array.from(values, (value) => 9 * value), dims: [values.length, 1] },
  position: { data: Float32Array.of(1), dims: [1] },
})
const resultOf = async (outputs: Promise<Record<string, Tensor>>) => [
  ...((await outputs).velocity!.data as Float32Array),
]

test('the jobs of a batch share one run, and each receives its samples', async () => {
  const batches = new StepBatches()
  const { session, runs } = createAddingSession()
  const of = (job: number) => batches.session(job, session)
  for (const job of [1, 2, 3]) batches.join(job, { number: 7, size: 3 })
  const results = [of(1).run(inputsOf([1])), of(2).run(inputsOf([2, 3])), of(3).run(inputsOf([4]))]
  expect(await Promise.all(results.map(resultOf))).toEqual([
    [10, 10],
    [20, 20, 30, 30],
    [40, 40],
  ])
  expect(runs).toEqual([4])
})

test('a batch waits for all of its jobs, and runs without those that end their step', async () => {
  const batches = new StepBatches()
  const { session, runs } = createAddingSession()
  batches.join(1, { number: 1, size: 3 })
  const first = batches.session(1, session).run(inputsOf([1]))
  batches.join(2, { number: 1, size: 3 })
  batches.leave(2)
  await new Promise(setImmediate)
  expect(runs).toEqual([])
  batches.join(3, { number: 1, size: 3 })
  // A job that sent a preview requests its step again.
  batches.join(3, { number: 1, size: 3 })
  const third = batches.session(3, session).run(inputsOf([3]))
  expect(await Promise.all([first, third].map(resultOf))).toEqual([
    [10, 10],
    [30, 30],
  ])
  expect(runs).toEqual([2])
  batches.leave(1)
  expect(await resultOf(batches.session(3, session).run(inputsOf([5])))).toEqual([50, 50])
})

test('samples of different shapes run separately, and jobs without a batch alone', async () => {
  const batches = new StepBatches()
  const { session, runs } = createAddingSession()
  for (const job of [1, 2, 3]) batches.join(job, { number: 1, size: 3 })
  const results = [
    batches.session(1, session).run(inputsOf([1])),
    batches.session(9, session).run(inputsOf([9])),
    batches.session(2, session).run(inputsOf([2], 3)),
    batches.session(3, session).run(inputsOf([3])),
  ]
  expect(await Promise.all(results.map(resultOf))).toEqual([
    [10, 10],
    [90, 90],
    [20, 20, 20],
    [30, 30],
  ])
  expect(runs.toSorted()).toEqual([1, 1, 2])
})

test('if a shared run fails, each job runs alone and gets its own result', async () => {
  const batches = new StepBatches()
  const { session, runs } = createAddingSession((samples) => samples > 1)
  for (const job of [1, 2]) batches.join(job, { number: 1, size: 2 })
  const results = [batches.session(1, session).run(inputsOf([1])), batches.session(2, session).run(inputsOf([2, 3]))]
  expect(await resultOf(results[0]!)).toEqual([10, 10])
  await expect(results[1]).rejects.toThrow('no memory for 2 samples')
  expect(runs).toEqual([3, 1, 2])
})

test('runs of serialized sessions do not overlap with those of batches', async () => {
  const batches = new StepBatches()
  let running = 0
  let max = 0
  const slow = createAddingSession().session
  const session: Session = {
    ...slow,
    async run(...given) {
      running += 1
      max = Math.max(max, running)
      await new Promise(setImmediate)
      running -= 1
      return slow.run(...given)
    },
  }
  const serialized = batches.serialized(session)
  const runs = [
    serialized.run(inputsOf([1])),
    batches.session(1, session).run(inputsOf([2])),
    serialized.run(inputsOf([3])),
  ]
  expect(await Promise.all(runs.map(resultOf))).toEqual([
    [10, 10],
    [20, 20],
    [30, 30],
  ])
  expect(max).toBe(1)
})
