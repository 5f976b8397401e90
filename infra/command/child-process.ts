// Child processes of commands, which end with the command.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { atExit } from './at-exit.ts'

/** Sends the signal to a child process at the exit of this process, unless the child has ended by then. Returns the child. */
export function endWithThis<Child extends ChildProcess>(child: Child, signal: NodeJS.Signals = 'SIGKILL'): Child {
  const cancel = atExit(() => child.kill(signal))
  child.once('close', cancel)
  return child
}

/** Kills a child process that was started with `detached`, and all of its own children, at the exit of this process. Returns the child. */
export function endGroupWithThis<Child extends ChildProcess>(child: Child): Child {
  const cancel = atExit(() => signalGroup(child, 'SIGKILL'))
  child.once('close', cancel)
  return child
}

/** Sends a signal to a child process that was started with `detached`, and to its own children, as far as they run. */
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

/** Runs a program to its end and returns its output. Throws with its messages if it fails. */
export async function outputOf(
  program: string,
  args: readonly string[],
  { input = '', ...options }: Options = {},
): Promise<{ stdout: string; stderr: string }> {
  const child = endGroupWithThis(spawn(program, args, { ...options, stdio: 'pipe', detached: true }))
  const closed = once(child, 'close')
  // A program that ends before it has read its input is judged by its exit code.
  child.stdin.on('error', () => {}).end(input)
  const [stdout, stderr, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), closed])
  if (code !== 0) throw new Error(`${program} ended with ${code ?? signal}:\n${stderr.trim()}`)
  return { stdout, stderr }
}
