// `npm run kernels:check`: compiles every kernel for every target without a GPU. Fails if a register spills, if ptxas serializes matrix
// instructions, or if the table in docs/performance.md has other figures.
import { globSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Command } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { printError } from '../command/print.ts'
import { type Compiler, findCompiler } from './compiler.ts'
import { findProblems } from './problems.ts'
import { compile, type Report, TARGETS, type Target } from './ptxas.ts'
import { replaceTable, tableOf } from './table.ts'

const ROOT = path.join(import.meta.dirname, '../..')
const PAGE = path.join(ROOT, 'docs/performance.md')
const KERNELS = path.join(ROOT, 'gpu-fn/kernels')
const PLANTED = path.join(import.meta.dirname, 'planted')

/** Compiles every source for every target, on all cores. */
async function compileAll(compiler: Compiler, sources: readonly string[]): Promise<Report[]> {
  const jobs = sources.flatMap((source) => TARGETS.map((target) => ({ source, target })))
  const reports: Report[] = new Array(jobs.length)
  const next = jobs.entries()
  const runNext = async () => {
    for (const [k, { source, target }] of next) reports[k] = await compile(compiler, source, target)
  }
  await Promise.all(Array.from({ length: os.availableParallelism() }, runNext))
  return reports
}

/** Throws if the check does not detect a source that spills, or one whose matrix instructions are serialized. */
async function checkDetection(compiler: Compiler): Promise<void> {
  const findPlantedProblems = async (file: string, target: Target) =>
    findProblems(await compile(compiler, path.join(PLANTED, file), target))
  for (const [file, pattern] of [['spill.cu', /spills/] as const, ['serialized.cu', /C7511/] as const]) {
    const problems = await findPlantedProblems(file, 'sm_90a')
    if (!problems.some((problem) => pattern.test(problem)))
      throw new Error(`infra/kernels/planted/${file} was not detected; the compiler's messages may have changed`)
    console.log(`planted/${file}: detected`)
  }
}

async function check({ write }: { write?: boolean }): Promise<void> {
  const compiler = await findCompiler()
  await checkDetection(compiler)
  const sources = globSync('{*,*/*}.cu', { cwd: KERNELS }).toSorted()
  const reports = await compileAll(compiler, sources)
  const kernels = reports.flatMap((report) => report.kernels)
  console.log(`${sources.length} sources × ${TARGETS.length} targets: ${kernels.length} kernels`)
  const problems = reports.flatMap(findProblems)
  if (problems.length > 0) throw new Error(`\n${problems.join('\n')}`)
  if (!compiler.isPinned) return console.log('The table is not compared, because CUDA_HOME may be of another version.')
  const page = await readFile(PAGE, 'utf8')
  const updated = replaceTable(page, tableOf(reports))
  if (write) return writeFile(PAGE, updated)
  if (updated !== page)
    throw new Error(
      `the figures of docs/performance.md are not those of the sources; update them with "npm run kernels:check -- --write":\n${tableOf(reports)}`,
    )
}

const command = new Command('kernels:check')
  .description(
    'Compiles every CUDA kernel for every target without a GPU. Fails on spills and serialized instructions.',
  )
  .option('--write', 'update the table in docs/performance.md')
endOnSignals()
await check(command.parse().opts<{ write?: boolean }>()).catch((error) => {
  printError('kernels:check', error as Error)
  process.exit(1)
})
