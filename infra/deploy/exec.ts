// Runs the vendors' commands for a plan.
import { spawn } from 'node:child_process'
import path from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { endWithThis } from '../command/child-process.ts'
import { ROOT } from '../local/models/package-cache.ts'
import { findModalCommand } from '../modal/python.ts'
import { CommandFailed, type CommandLine, type ExecOptions, formatCommand } from './plan.ts'

const LAST_LINES = 12
const WRANGLER = path.join(ROOT, 'node_modules/wrangler/bin/wrangler.js')

/** The program and first arguments of a command in a plan. */
function createProgram([name, ...rest]: CommandLine): string[] {
  if (name === 'wrangler') return [process.execPath, WRANGLER, ...rest]
  if (name === 'modal') return [...findModalCommand(), ...rest]
  return [name!, ...rest]
}

const describeMissing = (name: string) =>
  `the command ${name} is missing${name === 'modal' ? ': install it with npm run modal:setup' : ''}`

/**
 * Runs a command without a terminal, so that it cannot prompt. Its output is in the error if it fails. The command ends with this process.
 */
export function exec(command: CommandLine, { env = {}, onLine }: ExecOptions = {}): Promise<string> {
  const [program, ...rest] = createProgram(command)
  const child = endWithThis(
    spawn(program!, rest, {
      cwd: ROOT,
      env: { ...process.env, CI: '1', WRANGLER_SEND_METRICS: 'false', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    }),
    'SIGTERM',
  )
  let output = ''
  let all = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
    all += chunk
  })
  child.stderr.on('data', (chunk) => (all += chunk))
  if (onLine) for (const stream of [child.stdout, child.stderr]) readLines(stream, onLine)
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  child.on('error', (error: NodeJS.ErrnoException) =>
    reject(new CommandFailed(error.code === 'ENOENT' ? describeMissing(command[0]!) : error.message)),
  )
  child.on('close', (code) => {
    if (code === 0) return resolve(output)
    const lastLines = all.trim().split('\n').slice(-LAST_LINES).join('\n')
    reject(new CommandFailed(`\`${formatCommand(command)}\` ended with ${code}:\n${lastLines}`))
  })
  return promise
}

const readLines = (stream: Readable, onLine: (line: string) => void) =>
  createInterface(stream).on('line', (line) => line.trim() && onLine(line))
