// The run log of a GPU function: one line per event, so that it survives a SIGKILL.
import fs from 'node:fs'
import { glob, readFile } from 'node:fs/promises'
import path from 'node:path'
import type { JobRequest } from '../../../gpu-fn/contract.ts'

/** Identifies a campaign's job on the GPU: no two jobs share both prompt and seed. */
export type Identity = Pick<JobRequest, 'prompt' | 'seed'>
/** The start of a run, or one of its steps. `at` is in Unix milliseconds. */
type Line = Identity & { gpu: string; run: string; at: number }
/** One run of a job by one process. Times are Unix milliseconds. `last` is the time of its last step. */
export type Run = Identity & { gpu: string; start: number; last: number; steps: number }

/** Opens the run log of this process. The returned function logs the start of a run, and returns one that logs each of its steps. */
export function recordRuns(directory: string, gpu: string) {
  const file = fs.openSync(path.join(directory, `gpu-${gpu}.${process.pid}.jsonl`), 'a')
  let runs = 0
  return ({ prompt, seed }: Identity): (() => void) => {
    const run = `${process.pid}.${runs++}`
    const log = () => void fs.writeSync(file, `${JSON.stringify({ gpu, run, prompt, seed, at: Date.now() })}\n`)
    log()
    return log
  }
}

/** Parses the runs of one log, ignoring a line truncated by SIGKILL. */
export function parseRuns(text: string): Run[] {
  const lines = text.split('\n').slice(0, -1)
  const runs = Map.groupBy(
    lines.map((line) => JSON.parse(line) as Line),
    ({ run }) => run,
  )
  return [...runs.values()].map((own) => {
    const { gpu, prompt, seed, at } = own[0]!
    return { gpu, prompt, seed, start: at, last: own.at(-1)!.at, steps: own.length - 1 }
  })
}

/** Reads all runs from the logs in `directory`. */
export async function readRuns(directory: string): Promise<Run[]> {
  const runs: Run[] = []
  for await (const name of glob('gpu-*.jsonl', { cwd: directory }))
    runs.push(...parseRuns(await readFile(path.join(directory, name), 'utf8')))
  return runs
}
