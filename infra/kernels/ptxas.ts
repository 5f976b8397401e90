// Compiles CUDA sources without a GPU, and reads ptxas's report on each kernel.
import path from 'node:path'
import { outputOf } from '../command/child-process.ts'
import { makeScratch } from '../command/scratch.ts'
import type { Compiler } from './compiler.ts'

/** The library's GPU architectures, by nvcc's names. Only sm_90a has wgmma. */
export const TARGETS = ['sm_89', 'sm_90a', 'sm_100', 'sm_120'] as const
export type Target = (typeof TARGETS)[number]

/** A kernel's resources, as reported by ptxas. `name`: with template arguments, without namespaces and parameters. */
export type Kernel = { name: string; registers: number; sharedBytes: number; spilledBytes: number }
export type Report = {
  source: string
  target: Target
  kernels: Kernel[]
  /** ptxas's messages on serialized or otherwise changed matrix instructions. */
  serialized: string[]
}

const KERNELS = path.join(import.meta.dirname, '../../gpu-fn/kernels')
/** C7510 to C7518 state why wgmma instructions were serialized; C7519 reports an instruction that ptxas added to them. */
const SERIALIZED = /\(C75\d\d\)/

/** Compiles `source`, relative to gpu-fn/kernels, for one target. Throws the compiler's messages if it fails. */
export async function compile({ nvcc, include }: Compiler, source: string, target: Target): Promise<Report> {
  const arch = target.replace('sm_', 'compute_')
  const args = [
    ...['-std=c++17', '-O3', '-gencode', `arch=${arch},code=${target}`],
    ...['-Iinclude', '-I../native/vendor', `-I${include}`],
    ...['-Xptxas', '-v', '-cubin', '-o', '/dev/null', source],
  ]
  // For nvcc's intermediate files, which nvcc does not remove if it is killed.
  await using scratch = makeScratch('octet-nvcc-')
  const { stderr } = await outputOf(nvcc, args, { cwd: KERNELS, env: { ...process.env, TMPDIR: scratch.directory } })
  // Demangles names. c++filt is part of binutils, which nvcc's host compiler requires.
  const { stdout } = await outputOf('c++filt', [], { input: stderr })
  return { source, target, ...readReport(stdout) }
}

/** Reads the messages of `ptxas -v`, with demangled names. Throws if a kernel has no figures. */
export function readReport(text: string): Pick<Report, 'kernels' | 'serialized'> {
  const [head, ...sections] = text.split("Compiling entry function '")
  const serialized = text.split('\n').filter((line) => SERIALIZED.test(line))
  if (sections.length === 0 && head!.includes('Used ')) throw new Error(`unknown format of ptxas's report:\n${head}`)
  return { kernels: sections.map(readKernel), serialized }
}

function readKernel(section: string): Kernel {
  const parseNumber = (pattern: RegExp) => Number(pattern.exec(section)?.[1] ?? Number.NaN)
  const kernel = {
    name: shortenName(section.slice(0, section.indexOf("' for 'sm_"))),
    registers: parseNumber(/Used (\d+) registers/),
    // ptxas omits a zero.
    sharedBytes: section.includes(' bytes smem') ? parseNumber(/\b(\d+) bytes smem/) : 0,
    spilledBytes: parseNumber(/\b(\d+) bytes spill stores/) + parseNumber(/\b(\d+) bytes spill loads/),
  }
  for (const [figure, value] of Object.entries(kernel))
    if (Number.isNaN(value)) throw new Error(`ptxas's report on ${kernel.name} has no ${figure}:\n${section}`)
  return kernel
}

/** `void octet::(anonymous namespace)::apply<(bool)1>(octet::Norm)` → `apply<1>`. */
function shortenName(signature: string): string {
  const [name] = signature.replace(/\(anonymous namespace\)::|\((?:bool|int)\)/g, '').split('(')
  return name!.replace('void ', '').replaceAll('octet::', '')
}
