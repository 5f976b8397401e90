// A process that is killed without cleanup, as by a power failure, and started again.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { endGroupWithThis, signalGroup } from '../command/child-process.ts'

export type Program = {
  /** Kills the process and its children. */
  kill: () => Promise<void>
  /** Starts the process, unless it is running, and waits until it is ready. */
  start: () => Promise<void>
  /** The process id, which is also the id of its process group; null if it is not running. */
  pid: () => number | null
  /** Sends a request to the running process after the reply to the last one, and waits until it replies with the same word. Throws if the process ends. */
  ask: (request: string) => Promise<void>
  /** Pauses the process and its children, as on an overloaded host. */
  freeze: (milliseconds: number) => Promise<void>
}

/**
 * The environment variable with the settings. They contain secrets, and any user can read the arguments of a process, but only its owner
 * can read its environment.
 */
export const SETTINGS = 'OCTET_PROGRAM_SETTINGS'

/** The settings of this process, passed by its parent. */
export const readSettings = <Settings>() => JSON.parse(process.env[SETTINGS]!) as Settings

const isRunning = ({ exitCode, signalCode }: ChildProcess) => exitCode === null && signalCode === null

/**
 * Describes the process of `programs/<file>`, which reads its settings with `readSettings` and sends its parent a message when ready. Its
 * log and temporary files are in `directory`.
 */
export function createProgram(file: string, directory: string, settings: object): Program {
  let child: ChildProcess | null = null
  /** Resolves at the exit of `child`, with a description. */
  let ended: Promise<[string]>
  /** The reply to the last request. One at a time, because any message counts as the reply. */
  let answered: Promise<unknown> = Promise.resolve()
  const kill = async () => {
    if (!child) return
    const exited = isRunning(child) ? once(child, 'exit') : null
    signalGroup(child, 'SIGKILL')
    await exited
    child = null
  }
  const awaitMessage = async (expected: string) => {
    const [first] = await Promise.race([once(child!, 'message'), ended])
    if (first !== expected) throw new Error(`${first} before the message ${expected}`)
  }
  return {
    kill,
    pid: () => child?.pid ?? null,
    ask(request) {
      const reply = answered.then(() => {
        if (!child || !isRunning(child)) throw new Error(`${file} does not run`)
        child.send(request)
        return awaitMessage(request)
      })
      answered = reply.catch(() => {})
      return reply
    },
    async start() {
      if (child && isRunning(child)) return
      await kill()
      const log = fs.openSync(path.join(directory, `${path.basename(file, '.ts')}.log`), 'a')
      // Its process group includes its children, such as the worker's workerd.
      child = endGroupWithThis(
        fork(path.join(import.meta.dirname, 'programs', file), [], {
          env: { ...process.env, TMPDIR: directory, [SETTINGS]: JSON.stringify(settings) },
          detached: true,
          stdio: ['ignore', log, log, 'ipc'],
        }),
      )
      fs.closeSync(log)
      ended = once(child, 'exit').then(([code, by]) => [`${file} ended with ${code ?? by}`])
      await awaitMessage('ready')
    },
    async freeze(milliseconds) {
      if (!child) return
      signalGroup(child, 'SIGSTOP')
      await sleep(milliseconds)
      signalGroup(child, 'SIGCONT')
    },
  }
}
