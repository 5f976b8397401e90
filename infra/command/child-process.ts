// Child processes of a command, killed at its exit.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { runAtExit } from './at-exit.ts'

/** Sends the signal to a child process at the exit of this process, unless the child has ended by then. Returns the child. */
export function endWithThis<Child extends ChildProcess>(child: Child, signal: NodeJS.Signals = 'SIGKILL'): Child {
  const cancel = runAtExit(() => child.kill(signal))
  child.once('close', cancel)
  return child
}

/** Kills the process group of a child started with `detached` at the exit of this process. Returns the child. */
export function endGroupWithThis<Child extends ChildProcess>(child: Child): Child {
  const cancel = runAtExit(() => signalGroup(child, 'SIGKILL'))
  child.once('close', cancel)
  return child
}

/** Sends a signal to the process group of a child started with `detached`, if any of its processes runs. */
export function signalGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

type Options = {
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** Its standard input; empty by default. */
  input?: string
}

/** Runs a program and returns its output. If it fails, throws an Error with its standard error. */
export async function outputOf(
  program: string,
  args: readonly string[],
  { input = '', ...options }: Options = {},
): Promise<{ stdout: string; stderr: string }> {
  const child = endGroupWithThis(spawn(program, args, { ...options, stdio: 'pipe', detached: true }))
  const closed = once(child, 'close')
  // Ignores errors of the input stream: if the program exits before reading its input, the exit code decides.
  child.stdin.on('error', () => {}).end(input)
  const [stdout, stderr, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), closed])
  if (code !== 0) throw new Error(`${program} ended with ${code ?? signal}:\n${stderr.trim()}`)
  return { stdout, stderr }
}
