// Runs the programs of `npm run bench -- gpu` and appends their figures to a file.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { psnr, readPixels } from '../../receipts/compare-images.ts'
import { watchMemory } from './memory.ts'
import { type Figure, type Line, line } from './plan.ts'

type Result = { metric: string; size?: string | null | undefined; value: number | null; error?: string }

export type RecorderOptions = {
  variant: string
  device: string
  /** File that figures are appended to. */
  out: string
  /** Directory of plans. Its `reference` has the reference images. */
  work: string
  /** Time limit of a program. */
  seconds: number
}

export type Recorder = ReturnType<typeof createRecorder>

export function createRecorder({ variant, device, out, work, seconds }: RecorderOptions) {
  const figures: Figure[] = []
  const lines = createWriteStream(out, { flags: 'a' })
  const memory = watchMemory()
  const pictures: Promise<void>[] = []

  function record(system: string, { size = null, ...result }: Result): void {
    const figure: Figure = { variant, device, system, size, ...result }
    figures.push(figure)
    lines.write(`${JSON.stringify(figure)}\n`)
    console.error(JSON.stringify(figure))
  }

  function take(system: string, given: Line): void {
    if ('metric' in given) record(system, given)
    else if ('failed' in given)
      record(system, { metric: given.failed, size: given.size, value: null, error: given.error })
    else if ('note' in given) console.error(`${system}: ${given.note}`)
    else if ('image' in given) pictures.push(comparePicture(system, given.image, given.size ?? ''))
  }

  /** Records the PSNR to the image of the float32 reference from the same noise. */
  async function comparePicture(system: string, file: string, size: string): Promise<void> {
    try {
      const files = [file, path.join(work, 'reference', `turbo-${size}.png`)]
      const [ours, theirs] = await Promise.all(files.map((name) => readPixels(name)))
      record(system, { metric: 'psnr_db', size, value: Math.min(99, psnr(ours!, theirs!)) })
    } catch (error) {
      record(system, { metric: 'psnr_db', size, value: null, error: String(error) })
    }
  }

  /** Records the peak memory since the last call. */
  function takePeak(system: string, phase: string, size?: string | null): number {
    const value = memory.peak()
    if (value) record(system, { metric: `peak_mib_${phase.replace(' ', '_')}`, size, value })
    return value ?? 0
  }

  /** Runs a program with its plan and records its output. Throws if it fails or exceeds the time limit. */
  async function runProgram(system: string, [command, script]: [string, string], plan: object): Promise<void> {
    const file = path.join(work, `${system}.json`)
    await fs.writeFile(file, JSON.stringify(plan))
    memory.peak()
    const child = spawn(command, [script, file], { stdio: ['ignore', 'pipe', 'inherit'] })
    const exited = once(child, 'close')
    const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000)
    let phase: Extract<Line, { phase: string }> | undefined
    let most = 0
    const endPhase = () => {
      if (phase) most = Math.max(most, takePeak(system, phase.phase, phase.size))
    }
    createInterface(child.stdout).on('line', (text) => {
      const parsed = line.safeParse(parseJson(text))
      if (!parsed.success) return console.error(`${system}: ${text}`)
      if ('phase' in parsed.data) {
        endPhase()
        phase = parsed.data
      }
      take(system, parsed.data)
    })
    const [code, signal] = await exited.finally(() => clearTimeout(timer))
    endPhase()
    if (most > 0) record(system, { metric: 'peak_mib', value: most })
    if (code !== 0) throw new Error(`it ended with ${code ?? signal}`)
  }

  return {
    figures,
    record,
    take,
    takePeak,
    runProgram,
    async close(): Promise<void> {
      memory.stop()
      await Promise.all(pictures)
      lines.end()
      await once(lines, 'close')
    },
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
