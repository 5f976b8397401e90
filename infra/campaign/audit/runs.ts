// Consistency checks between jobs and the GPU functions' run logs: no GPU time is spent without a paying job.
import type { Identity, Run } from '../../system/programs/gpu-runs.ts'
import type { JobRow } from './records.ts'

const formatSeconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(1)} s`
const keyOf = ({ prompt, seed }: Identity) => `${seed} ${prompt}`
const describe = ({ gpu, prompt, seed }: Run) => `GPU function ${gpu} ran ${JSON.stringify(prompt)} (seed ${seed})`

/**
 * Reports a run that outlives its job by more than the grace period. A run started after the job's end, by a delayed duplicate request,
 * gets the same period.
 */
function reportOverrun({ id, state, finished }: JobRow, run: Run, graceMs: number): string[] {
  if (finished === null) return [`${describe(run)} for ${id}, which has not ended`]
  const late = run.last - Math.max(finished, run.start)
  return late > graceMs ? [`${describe(run)} for ${formatSeconds(late)} after ${id} had ${state}`] : []
}

/** The longest overlap between two runs of a job. */
function measureOverlap(runs: readonly Run[]): number {
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
 * Every run belongs to a job, ends within `graceMs` of the job's end, and overlaps no other run of it for longer than that; every
 * succeeded job has a run. The grace period covers the timeout after which a run without a reader is canceled.
 */
export function runProblems(runs: readonly Run[], jobs: readonly JobRow[], graceMs: number): string[] {
  const byKey = Map.groupBy(runs, keyOf)
  const known = new Set(jobs.map(({ request }) => keyOf(request)))
  const strays = runs.filter((run) => !known.has(keyOf(run)))
  const wrong = jobs.flatMap((job) => {
    const own = byKey.get(keyOf(job.request)) ?? []
    const both = measureOverlap(own)
    return [
      ...own.flatMap((run) => reportOverrun(job, run, graceMs)),
      ...(both > graceMs ? [`two runs of ${job.id} overlapped for ${formatSeconds(both)}`] : []),
      ...(own.length === 0 && job.state === 'succeeded' ? [`${job.id} succeeded, but no GPU function ran it`] : []),
    ]
  })
  return [...strays.map((run) => `${describe(run)}, which has no job`), ...wrong]
}

/** Number of runs, steps, and runs that outlived their job. */
export function runCounts(runs: readonly Run[], jobs: readonly JobRow[]): Record<string, number> {
  const finished = new Map(jobs.map(({ request, finished }) => [keyOf(request), finished ?? Number.POSITIVE_INFINITY]))
  const late = runs.filter((run) => run.last > (finished.get(keyOf(run)) ?? Number.POSITIVE_INFINITY))
  return {
    'GPU runs': runs.length,
    'GPU steps': runs.reduce((total, { steps }) => total + steps, 0),
    'GPU runs that outlived their job': late.length,
  }
}
