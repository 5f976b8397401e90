// A deployment as steps: what each is for, the commands that it runs, and what to do when it fails. Every step may be run again.
import { styleText } from 'node:util'
import type { DeployConfig } from '../config.ts'

/** What steps learn from each other; a name in angle brackets stands for what is not known yet. */
export type State = {
  gpuUrl: string
  workerUrl: string
  /** Files with secrets, for as long as a command reads them. */
  workerSecrets: string
  gpuSecrets: string
}

export const UNKNOWN: State = {
  gpuUrl: '<GPU_URL>',
  workerUrl: '<WORKER_URL>',
  workerSecrets: '<WORKER_SECRETS_FILE>',
  gpuSecrets: '<GPU_SECRETS_FILE>',
}

/** A command line, by its parts. The program is `wrangler`, `modal` or another of the vendor's. */
export type CommandLine = readonly string[]

export type World = {
  config: DeployConfig
  state: State
  /** Runs a command and returns what it prints. Throws CommandFailed. */
  exec: (command: CommandLine, env?: Record<string, string>) => Promise<string>
  /** Asks the person at the terminal. Throws where there is none. */
  ask: (question: string, options?: { secret?: boolean }) => Promise<string>
  say: (line: string) => void
}

/** What the vendors' commands say of something that is not there, and not of a connection that failed. */
export const GONE = /not found|does not exist|no such|could not find|10007|10006/i

export class CommandFailed extends Error {
  override name = 'CommandFailed' as const
}

export type Step = {
  id: string
  /** What it brings about, in a few words. */
  what: string
  /** The commands, some of which run only when they are needed: `condition` says when. */
  commands: (config: DeployConfig, state: State) => { command: CommandLine; condition?: string }[]
  run: (world: World) => Promise<void>
  /** What to do when it fails. */
  otherwise: string
}

/** Which step failed, and what to do. */
export class StepFailed extends Error {
  override name = 'StepFailed' as const
  readonly step: string
  constructor(step: Step, cause: unknown) {
    super(`${step.what}: ${(cause as Error).message}\n${step.otherwise}`, { cause })
    this.step = step.id
  }
}

const quoted = (part: string) => (/^[\w@%+=:,./<>-]+$/.test(part) ? part : `'${part.replaceAll("'", `'\\''`)}'`)
export const commandText = (command: CommandLine) => command.map(quoted).join(' ')

/** The steps with their commands, for people. */
export function planText(steps: readonly Step[], config: DeployConfig): string {
  const lines = steps.flatMap((step, k) => [
    `${String(k + 1).padStart(2)}. ${step.what}`,
    ...step
      .commands(config, UNKNOWN)
      .map(({ command, condition }) => `      ${commandText(command)}${condition ? `   # ${condition}` : ''}`),
  ])
  return lines.join('\n')
}

/** Runs the steps in order. Throws StepFailed at the first that fails; what was done stays, and the next run goes on from there. */
export async function runPlan(steps: readonly Step[], world: World): Promise<void> {
  for (const [k, step] of steps.entries()) {
    world.say(`${styleText('bold', `${k + 1}/${steps.length}`)} ${step.what}`)
    try {
      await step.run(world)
    } catch (cause) {
      throw new StepFailed(step, cause)
    }
  }
}
