// All descendants of a program, identified by a variable in their environment. Reads Linux's /proc.
import { glob, readFile } from 'node:fs/promises'

/** The command lines of the processes that run with `variable` in their environment. One that has ended has no environment. */
export async function findProcesses(variable: string): Promise<string[]> {
  const found: string[] = []
  for await (const directory of glob('/proc/[0-9]*')) {
    const [environment, command] = await Promise.all(
      ['environ', 'cmdline'].map((name) => readFile(`${directory}/${name}`, 'latin1').catch(() => '')),
    )
    if (environment!.split('\0').includes(variable)) found.push(command!.replaceAll('\0', ' ').trim())
  }
  return found
}
