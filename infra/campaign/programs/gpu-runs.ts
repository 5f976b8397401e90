// A GPU function's run log: one line per event, so that it survives a SIGKILL.
import fs from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import type { JobRequest, Seed } from '../../../gpu-fn/contract.ts'

/** Identifies a campaign's job on the GPU: no two jobs share both prompt and seed. */
export type Asked = Pick<JobRequest, 'prompt' | 'seed'>
/** One run of a job by one process. Times are Unix milliseconds. `last` is the time of its last step. */
export type Run = Asked & { gpu: string; start: number; last: number; steps: number }

type Line = { run: string; at: number } & ({ type: 'start'; prompt: string; seed: Seed } | { type: 'step' })

const fileOf = (name: string, process: number) => `gpu-${name}.${process}.jsonl`
const FILE = /^gpu-(.+)\.\d+\.jsonl$/

/** Opens the run log of this process, which is the GPU function `name`. */
export function recordRuns(directory: string, name: string) {
  const file = fs.openSync(path.join(directory, fileOf(name, process.pid)), 'a')
  const write = (line: Line) => fs.writeSync(file, `${JSON.stringify(line)}\n`)
  let runs = 0
  return {
    /** Logs the start of a run. Returns a function that logs each of its steps. */
    start({ prompt, seed }: Asked): () => void {
      const run = `${process.pid}.${runs++}`
      write({ run, at: Date.now(), type: 'start', prompt, seed })
      return () => write({ run, at: Date.now(), type: 'step' })
    },
  }
}

/** Parses the runs of one log, ignoring a line truncated by SIGKILL. */
export function parseRuns(gpu: string, text: string): Run[] {
  const runs = new Map<string, Run>()
  for (const line of text.split('\n').slice(0, -1)) {
    const entry = JSON.parse(line) as Line
    const run = runs.get(entry.run)
    if (entry.type === 'start') {
      const { prompt, seed, at } = entry
      runs.set(entry.run, { gpu, prompt, seed, start: at, last: at, steps: 0 })
    } else if (run) {
      run.last = entry.at
      run.steps += 1
    }
  }
  return [...runs.values()]
}

/** Reads all runs from the logs in `directory`. */
export async function readRuns(directory: string): Promise<Run[]> {
  const read = async (file: string) => {
    const name = FILE.exec(file)?.[1]
    return name === undefined ? [] : parseRuns(name, await readFile(path.join(directory, file), 'utf8'))
  }
  return (await Promise.all(fs.readdirSync(directory).map(read))).flat()
}
