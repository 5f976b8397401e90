// Commands that npm starts: `npm run NAME -- ARGUMENTS`.
import type { Command } from 'commander'

type Environment = Record<string, string | undefined>

/** Options that npm also has and that its configuration may set. */
const NPM_OWN = new Set(['--yes', '--version'])

/** The options that npm consumed, because "--" is missing before the arguments. */
export function findTakenOptions(command: Command, env: Environment = process.env): string[] {
  const options = [command, ...command.commands].flatMap((each) => each.options)
  const names = [...new Set(options.flatMap(({ long }) => long ?? []))].filter((long) => !NPM_OWN.has(long))
  return names.filter((long) => env[`npm_config_${long.slice(2).replaceAll('-', '_')}`] !== undefined)
}

/**
 * Prepares a program that npm started: relative paths start at the directory from which npm was called, even with `npm --prefix`. Ends
 * the process if npm took options of the command.
 */
export function prepareCommand(command: Command, env: Environment = process.env): Command {
  if (env.npm_lifecycle_event !== command.name()) return command
  if (env.INIT_CWD) process.chdir(env.INIT_CWD)
  const taken = findTakenOptions(command, env)
  if (taken.length === 0) return command
  console.error(
    `${command.name()}: npm took ${taken.join(', ')}. Put "--" before the arguments: npm run ${command.name()} -- ${taken[0]} …`,
  )
  process.exit(2)
}
