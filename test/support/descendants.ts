// All descendants of a program, identified by a variable in their environment. Reads Linux's /proc.
import { glob, readFile } from 'node:fs/promises'
import path from 'node:path'

type FoundProcess = { pid: number; command: string }

/** The processes that run with `variable` in their environment. One that has ended has no environment. */
async function listProcesses(variable: string): Promise<FoundProcess[]> {
  const found: FoundProcess[] = []
  for await (const directory of glob('/proc/[0-9]*')) {
    const [environment, command] = await Promise.all(
      ['environ', 'cmdline'].map((name) => readFile(`${directory}/${name}`, 'latin1').catch(() => '')),
    )
    if (environment!.split('\0').includes(variable))
      found.push({ pid: Number(path.basename(directory)), command: command!.replaceAll('\0', ' ').trim() })
  }
  return found
}

/** The command lines of the processes that run with `variable` in their environment. */
export const findProcesses = async (variable: string): Promise<string[]> =>
  (await listProcesses(variable)).map(({ command }) => command)

/** The IDs of those whose command line contains `part`. */
export const findProcessIds = async (variable: string, part: string): Promise<number[]> =>
  (await listProcesses(variable)).filter(({ command }) => command.includes(part)).map(({ pid }) => pid)
