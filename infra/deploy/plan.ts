// A deployment as idempotent steps, each with its purpose, its commands, and advice for failures.
import { styleText } from 'node:util'
import type { DeployConfig } from '../config.ts'

/** Values that a step produces for later steps. A name in angle brackets is a placeholder for a value that is not available yet. */
export type State = {
  gpuUrl: string
  workerUrl: string
  /** Files with secrets, while a command reads them. */
  workerSecrets: string
  gpuSecrets: string
  /** The wrangler configuration of the worker. */
  workerConfig: string
}

export const UNKNOWN: State = {
  gpuUrl: '<GPU_URL>',
  workerUrl: '<WORKER_URL>',
  workerSecrets: '<WORKER_SECRETS_FILE>',
  gpuSecrets: '<GPU_SECRETS_FILE>',
  workerConfig: '<WORKER_CONFIG_FILE>',
}

/** The words of a command line. The program is `wrangler`, `modal` or another one of the vendors. */
export type CommandLine = readonly string[]

export type ExecOptions = {
  env?: Record<string, string>
  /** Receives each line of output as it is printed, for commands that take long. */
  onLine?: (line: string) => void
}
/** Runs a command and returns what it prints on standard output. Throws CommandFailed. */
type Exec = (command: CommandLine, options?: ExecOptions) => Promise<string>

export type World = {
  config: DeployConfig
  /** The file of `config`. */
  configFile: string
  state: State
  exec: Exec
  /** Prompts at the terminal. Throws if there is none. */
  ask: (question: string, options?: { secret?: boolean }) => Promise<string>
  say: (line: string) => void
}

/** Matches the vendors' error messages about absent resources, as opposed to failed connections. */
export const GONE = /not found|does not exist|no such|could not find|10007|10006/i

export class CommandFailed extends Error {
  override name = 'CommandFailed' as const
}

export type Step = {
  id: string
  /** The purpose, in a few words. */
  what: string
  /** The commands. Those with a `condition` run only if necessary. */
  commands: (config: DeployConfig, state: State) => { command: CommandLine; condition?: string }[]
  run: (world: World) => Promise<void>
  /** Advice for a failure. */
  otherwise: string
}

/** A step failed. The message includes advice. */
export class StepFailed extends Error {
  override name = 'StepFailed' as const
  readonly step: string
  constructor(step: Step, cause: unknown) {
    super(`${step.what}: ${(cause as Error).message}\n${step.otherwise}`, { cause })
    this.step = step.id
  }
}

const quote = (part: string) => (/^[\w@%+=:,./<>-]+$/.test(part) ? part : `'${part.replaceAll("'", `'\\''`)}'`)
export const formatCommand = (command: CommandLine) => command.map(quote).join(' ')

/** Formats the steps with their commands. */
export function planText(steps: readonly Step[], config: DeployConfig): string {
  const lines = steps.flatMap((step, k) => [
    `${String(k + 1).padStart(2)}. ${step.what}`,
    ...step
      .commands(config, UNKNOWN)
      .map(({ command, condition }) => `      ${formatCommand(command)}${condition ? `   # ${condition}` : ''}`),
  ])
  return lines.join('\n')
}

/** Options for a command that takes long: its output is shown as it is printed. */
export const streamOutput = ({ say }: World, env: Record<string, string> = {}): ExecOptions => ({
  env,
  onLine: (line) => say(`   ${line}`),
})

/** Runs the steps in order. Throws StepFailed at the first failure; completed steps remain, and the next run continues from there. */
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
