// What must hold between the jobs and the GPU functions' own records: nothing runs that nobody pays for.
import type { Run } from './gpu-runs.ts'
import type { JobRow } from './records.ts'

const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(1)} s`
const keyOf = ({ prompt, seed }: { prompt: string; seed: number }) => `${seed} ${prompt}`
const describe = ({ gpu, prompt, seed }: Run) => `GPU function ${gpu} ran ${JSON.stringify(prompt)} (seed ${seed})`

/** A run that outlived its job by more than the grace. A delayed copy of a request may start one after the job's end, which has no longer. */
function overrun({ id, state, finished }: JobRow, run: Run, graceMs: number): string[] {
  if (finished === null) return [`${describe(run)} for ${id}, which has not ended`]
  const late = run.last - Math.max(finished, run.start)
  return late > graceMs ? [`${describe(run)} for ${seconds(late)} after ${id} had ${state}`] : []
}

/** The longest time for which two of a job's runs were in progress at once. */
function overlap(runs: readonly Run[]): number {
  const sorted = runs.toSorted((a, b) => a.start - b.start)
  let longest = 0
  let end = Number.NEGATIVE_INFINITY
  for (const { start, last } of sorted) {
    longest = Math.max(longest, Math.min(end, last) - start)
    end = Math.max(end, last)
  }
  return longest
}

/**
 * Every run belongs to a job, ends within `graceMs` of it, and overlaps no other run of it for longer; every job that succeeded was run.
 * The grace covers the time after which a run without a reader ends by itself.
 */
export function runProblems(runs: readonly Run[], jobs: readonly JobRow[], graceMs: number): string[] {
  const byKey = Map.groupBy(runs, keyOf)
  const known = new Set(jobs.map(({ request }) => keyOf(request)))
  const strays = runs.filter((run) => !known.has(keyOf(run)))
  const wrong = jobs.flatMap((job) => {
    const own = byKey.get(keyOf(job.request)) ?? []
    const both = overlap(own)
    return [
      ...own.flatMap((run) => overrun(job, run, graceMs)),
      ...(both > graceMs ? [`two runs of ${job.id} were in progress at once for ${seconds(both)}`] : []),
      ...(own.length === 0 && job.state === 'succeeded' ? [`${job.id} succeeded, and no GPU function ran it`] : []),
    ]
  })
  return [...strays.map((run) => `${describe(run)}, of which there is no job`), ...wrong]
}

/** How many runs and steps there were, and how many runs went on after the end of their job. */
export function runCounts(runs: readonly Run[], jobs: readonly JobRow[]): Record<string, number> {
  const finished = new Map(jobs.map(({ request, finished }) => [keyOf(request), finished ?? Number.POSITIVE_INFINITY]))
  const late = runs.filter((run) => run.last > (finished.get(keyOf(run)) ?? Number.POSITIVE_INFINITY))
  return {
    'GPU runs': runs.length,
    'GPU steps': runs.reduce((total, { steps }) => total + steps, 0),
    'GPU runs that outlived their job': late.length,
  }
}
