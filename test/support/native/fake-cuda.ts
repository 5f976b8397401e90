// Programs with the fake CUDA libraries of fake-cuda.cc, in a child process that has these in its library path.
import { execFile } from 'node:child_process'
import { mkdtemp, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'

const ROOT = path.join(import.meta.dirname, '../../..')

/** Builds the libraries in a new directory; returns it. */
export async function buildFakeCuda(): Promise<string> {
  const libraries = await mkdtemp(path.join(tmpdir(), 'octet-cuda-'))
  const library = path.join(libraries, 'libcudart.so.13')
  const source = path.join(import.meta.dirname, 'fake-cuda.cc')
  await promisify(execFile)('g++', ['-std=c++17', '-shared', '-fPIC', '-o', library, source])
  await symlink(library, path.join(libraries, 'libcuda.so.1'))
  return libraries
}

export type FakeCuda = {
  /** Size of the memory. */
  bytes?: number
  /** Size of pinned memory. */
  pinned?: number
  /** Copies until the GPU fails. */
  copies?: number
  /** Node types of captured graphs. */
  nodes?: readonly number[]
  /** A function of graphs that fails. */
  failure?: string
}

/** Runs a program with the modules of the runtime. Returns the JSON that it prints, and the lines of its error output. */
export async function runWithFakeCuda(
  libraries: string,
  program: string,
  { bytes = 1 << 30, pinned, copies, nodes = [], failure }: FakeCuda = {},
): Promise<{ result: unknown; calls: string[] }> {
  const imports = ['cuda', 'native', 'session-native'].map(
    (name) => `import * as ${name.replace('-', '_')} from '${ROOT}/gpu-fn/runtime/${name}.ts'`,
  )
  const source = `${imports.join('\n')}
    import { readFileSync } from 'node:fs'
    const failure = async (action) => { try { await action() } catch (error) { return error.message } }
    const print = (value) => console.log(JSON.stringify(value))
    ${program}`
  const limits = {
    ...{ FAKE_CUDA_BYTES: String(bytes), FAKE_CUDA_NODES: nodes.join(' '), FAKE_CUDA_FAILURE: failure ?? '' },
    ...(pinned !== undefined && { FAKE_CUDA_PINNED_BYTES: String(pinned) }),
    ...(copies !== undefined && { FAKE_CUDA_COPIES: String(copies) }),
  }
  const env = { ...process.env, LD_LIBRARY_PATH: libraries, ...limits }
  const options = { env }
  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    ['--input-type=module', '--eval', source],
    options,
  )
  return { result: JSON.parse(stdout), calls: stderr.split('\n').filter(Boolean) }
}
