// Every command cleans up after a signal: temporary directories and child processes are created only with the helpers of infra/command.
import { globSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'

const root = path.join(import.meta.dirname, '../../..')
const read = (file: string) => readFileSync(path.join(root, file), 'utf8')
const sources = globSync('{infra,test/gpu,test/clients}/**/*.ts', { cwd: root })
const findMatchingFiles = (pattern: RegExp) => sources.filter((file) => pattern.test(read(file))).toSorted()

/** Commands whose child processes continue to run after their end: `npm run demo -- --open` leaves the browser open. */
const REMAINING = ['infra/local/demo.ts']

test('temporary directories are created only by makeScratch', () => {
  expect(findMatchingFiles(/\bmkdtemp/)).toEqual(['infra/command/scratch.ts'])
})

test('child processes end with their command', () => {
  const unguarded = /(?<!\bend(Group)?WithThis\(\s*)\b(spawn|fork)\(/
  expect(findMatchingFiles(unguarded)).toEqual(REMAINING)
  // execFile cannot lead a process group.
  expect(findMatchingFiles(/import \{[^}]*\bexec(File)?\b[^}]*\} from 'node:child_process'/)).toEqual([])
})

/** The modules of this repository that a module imports statically or dynamically, directly or indirectly. */
function modulesOf(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  const imports = /^(?:import|export) (?!type )[^'"]*?from '(\.[^']+\.ts)'|\bimport\('(\.[^']+\.ts)'\)/gm
  for (const [, atOnce, onDemand] of read(file).matchAll(imports))
    modulesOf(path.join(path.dirname(file), (atOnce ?? onDemand)!), seen)
  return seen
}

const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
const programs = Object.values(scripts).flatMap((script) => /\bnode (\S+\.ts)/.exec(script)?.[1] ?? [])
const cleaning = [...programs, 'infra/docker/cuda-provider.ts'].filter((program) =>
  modulesOf(program).has('infra/command/at-exit.ts'),
)

test.each(cleaning)('%s cleans up after a signal', (program) => {
  expect(read(program)).toMatch(/^ *endOnSignals\(\)$/m)
})
