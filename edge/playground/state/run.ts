// Starts, cancels, repeats and deletes runs.
import { signal } from '@preact/signals'
import { call, isProblem, type Problem } from '../api/http.ts'
import { credential, keyDialog } from '../api/session.ts'
import type { Fields, JobView } from '../api/types.ts'
import { change, draft, newSeed, rejected, requests } from './draft.ts'
import { errorOf, follow, renewLinks, runFields } from './follow.ts'
import { addRuns, findRun, isFinal, patchRun, type Run, removeRuns, runs } from './history.ts'
import { announce, endLive, patchLive } from './live.ts'
import { quote } from './quote.ts'

/** The run on the stage; null shows the examples. */
export const selected = signal<string | null>(null)
/** The second run of a comparison. */
export const compared = signal<string | null>(null)

export function select(id: string | null): void {
  selected.value = id
  const run = findRun(id)
  compared.value = run?.pair ? (runs.value.find((each) => each.pair === run.pair && each.id !== id)?.id ?? null) : null
  if (run) void renewLinks(run)
}

const newRun = (fields: Fields, pair: string | null): Run => ({
  ...{ id: crypto.randomUUID(), created: Date.now(), pair, fields, job: null, state: 'sending' },
  ...{ decision: null, price: null, seconds: null, warnings: [], error: null, images: [], linked: 0 },
})

const DOLLAR = 1_000_000

/** Sends a run. `maxCost`, in micro-dollars, is the quoted price: a higher one is refused instead of charged. */
async function send({ id, fields }: Run, maxCost: number | null): Promise<void> {
  patchLive(id, {})
  const body = { ...fields, preview: true, ...(maxCost !== null && { max_cost: maxCost / DOLLAR }) }
  try {
    const job = await call<JobView>('POST', '/v1/jobs', body, { headers: { 'idempotency-key': id } })
    patchRun(id, runFields(job))
    await follow(id, job.id)
  } catch (error) {
    if (!isProblem(error)) throw error
    patchRun(id, { state: 'failed', error: errorOf(error) })
    endLive(id)
    announce(error.message)
    explain(error)
  }
}

/** Shows a problem where it can be solved. */
function explain(problem: Problem): void {
  if (problem.code === 'invalid_api_key') keyDialog.value = true
  if (problem.param) rejected.value = { param: problem.param, message: problem.message }
}

/** Seeds of runs so far: an unlocked seed is drawn again before its second run, never after a run. */
const isUsed = (seed: number) => runs.value.some(({ fields }) => fields.seed === seed)

/** On a phone, the result is above the form. */
function showStage(): void {
  if (matchMedia('(max-width: 719px)').matches) scrollTo({ top: 0 })
}

/** Runs the requests of the form. */
export async function runDraft(): Promise<void> {
  if (!credential.value) {
    keyDialog.value = true
    return
  }
  if (draft.value.prompt.trim() === '') {
    rejected.value = { param: 'prompt', message: 'The prompt is empty. Describe the image first.' }
    document.querySelector<HTMLElement>('#prompt')?.focus()
    return
  }
  if (!draft.value.isLocked && isUsed(draft.value.seed)) change({ seed: newSeed() })
  const wanted = requests.value
  const { quotes, isStale } = quote.value
  const pair = wanted.length > 1 ? crypto.randomUUID() : null
  const added = wanted.map((fields) => newRun(fields, pair))
  await addRuns(added)
  select(added[0]!.id)
  showStage()
  await Promise.all(added.map((run, k) => send(run, isStale ? null : (quotes[k]?.price_microdollars ?? null))))
}

/** Runs the fields of a run again as a new run. */
export async function repeat(run: Run): Promise<void> {
  const again = newRun(run.fields, null)
  await addRuns([again])
  select(again.id)
  await send(again, null)
}

/** The fields of a run on the other route, at the same seed. */
function otherRouteOf(run: Run): Fields {
  const { steps: _, guidance_scale: __, cache: ___, negative_prompt, ...fields } = run.fields
  const route = run.decision?.route === 'turbo' ? 'full' : 'turbo'
  return { ...fields, route, ...(route === 'full' && negative_prompt !== undefined && { negative_prompt }) }
}

/** A finished run of the other route with the same prompt, size and seed. */
export function findCounterpart(run: Run): Run | null {
  const isSame = ({ fields }: Run) =>
    (['prompt', 'size', 'seed', 'n'] as const).every((name) => fields[name] === run.fields[name]) &&
    JSON.stringify(fields.loras) === JSON.stringify(run.fields.loras)
  return (
    runs.value.find(
      (each) => each.state === 'succeeded' && each.decision?.route !== run.decision?.route && isSame(each),
    ) ?? null
  )
}

/** Compares a run with the other route: with an earlier run if there is one, else with a new run. */
async function compareRoutes(run: Run): Promise<void> {
  const found = findCounterpart(run)
  if (found) {
    compared.value = found.id
    void renewLinks(found)
    return
  }
  const pair = run.pair ?? crypto.randomUUID()
  patchRun(run.id, { pair })
  const other = newRun(otherRouteOf(run), pair)
  await addRuns([other])
  compared.value = other.id
  await send(other, null)
}

/** Ends the comparison on the stage, or begins one with the other route. */
export function toggleComparison(run: Run): void {
  if (compared.value) compared.value = null
  else void compareRoutes(run)
}

/** Cancels a run. Its end, with what it cost, arrives as an event. */
export async function cancelRun(run: Run): Promise<void> {
  if (!run.job) return
  try {
    await call<JobView>('POST', `/v1/jobs/${run.job}/cancel`)
  } catch (error) {
    if (isProblem(error)) announce(error.message)
  }
}

/** Removes a run from the history and deletes its images on the server. */
export async function deleteRun(run: Run): Promise<void> {
  removeRuns(new Set([run.id]))
  if (selected.value === run.id) select(null)
  if (run.job && isFinal(run)) await call('DELETE', `/v1/jobs/${run.job}/images`).catch(() => {})
}

/** Continues the runs that a reload interrupted. A run that was never sent failed. */
export function resumeRuns(): void {
  for (const run of runs.value.filter((each) => !isFinal(each))) {
    if (run.job) void follow(run.id, run.job)
    else {
      const message = 'The page was closed before this run was sent. Nothing was charged.'
      patchRun(run.id, { state: 'failed', error: { message, code: 'not_sent', requestId: null } })
    }
  }
}
