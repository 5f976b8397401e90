// Runs the programs of `npm run bench -- gpu` and appends their figures to a file.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, type WriteStream } from 'node:fs'
import fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { endGroupWithThis, signalGroup } from '../../command/child-process.ts'
import { makeScratch } from '../../command/scratch.ts'
import { psnr, readPixels } from '../../receipts/compare-images.ts'
import { watchMemory } from './memory.ts'
import { type Figure, type Line, line, parseJson } from './plan.ts'

type Result = { metric: string; size?: string | null | undefined; value: number | null; error?: string }

type RecorderOptions = {
  variant: string
  device: string
  /** Destination of the figures, in append mode. */
  out: string
  /** Directory of plans. Its `reference` has the reference images. */
  work: string
  /** Time limit of a program. */
  seconds: number
}

/** Kept between runs for reuse, unlike other temporary files. */
const TORCHINDUCTOR_CACHE_DIR = path.join(tmpdir(), 'octet-torchinductor')

export class Recorder {
  readonly figures: Figure[] = []
  readonly #options: RecorderOptions
  readonly #lines: WriteStream
  readonly #memory = watchMemory()
  readonly #comparisons: Promise<void>[] = []

  constructor(options: RecorderOptions) {
    this.#options = options
    this.#lines = createWriteStream(options.out, { flags: 'a' })
  }

  /** Appends a figure to the file. */
  record(system: string, { size = null, ...result }: Result): void {
    const { variant, device } = this.#options
    const figure: Figure = { variant, device, system, size, ...result }
    this.figures.push(figure)
    this.#lines.write(`${JSON.stringify(figure)}\n`)
    console.error(JSON.stringify(figure))
  }

  /** Handles an output line of a system: a figure, a failure, a note or an image. */
  handleLine(system: string, given: Line): void {
    if ('metric' in given) this.record(system, given)
    else if ('failed' in given)
      this.record(system, { metric: given.failed, size: given.size, value: null, error: given.error })
    else if ('note' in given) console.error(`${system}: ${given.note}`)
    else if ('image' in given) this.#comparisons.push(this.#compareImage(system, given.image, given.size ?? ''))
  }

  /** Records the duration of `make` in seconds. */
  async recordDuration(system: string, make: () => Promise<unknown>): Promise<void> {
    const start = performance.now()
    await make()
    this.record(system, { metric: 'make_s', value: (performance.now() - start) / 1000 })
  }

  /** Runs `measure` and records its error, if any, instead of throwing it. */
  async attempt(system: string, measure: () => void | Promise<void>): Promise<void> {
    try {
      await measure()
    } catch (error) {
      this.record(system, { metric: 'run', value: null, error: String(error) })
    }
  }

  /** Records the peak memory since the last call. */
  recordPeak(system: string, phase: string, size?: string | null): number {
    const value = this.#memory.peak()
    if (value) this.record(system, { metric: `peak_mib_${phase.replace(' ', '_')}`, size, value })
    return value ?? 0
  }

  /** Runs a program with its plan and records its output. Throws if it fails or exceeds the time limit. */
  async runProgram(system: string, [command, script]: [string, string], plan: object): Promise<void> {
    const { work, seconds } = this.#options
    const file = path.join(work, `${system}.json`)
    await fs.writeFile(file, JSON.stringify(plan))
    this.#memory.peak()
    await using scratch = makeScratch('octet-program-')
    const env = { TORCHINDUCTOR_CACHE_DIR, ...process.env, TMPDIR: scratch.directory }
    const child = endGroupWithThis(
      spawn(command, [script, file], { env, stdio: ['ignore', 'pipe', 'inherit'], detached: true }),
    )
    const exited = once(child, 'close')
    const timer = setTimeout(() => signalGroup(child, 'SIGKILL'), seconds * 1000)
    let phase: Extract<Line, { phase: string }> | undefined
    let peak = 0
    const endPhase = () => {
      if (phase) peak = Math.max(peak, this.recordPeak(system, phase.phase, phase.size))
    }
    createInterface(child.stdout).on('line', (text) => {
      const parsed = line.safeParse(parseJson(text))
      if (!parsed.success) return console.error(`${system}: ${text}`)
      if ('phase' in parsed.data) {
        endPhase()
        phase = parsed.data
      }
      this.handleLine(system, parsed.data)
    })
    const [code, signal] = await exited.finally(() => clearTimeout(timer))
    endPhase()
    if (peak > 0) this.record(system, { metric: 'peak_mib', value: peak })
    if (code !== 0) throw new Error(`the program ended with ${code ?? signal}`)
  }

  async close(): Promise<void> {
    this.#memory.stop()
    await Promise.all(this.#comparisons)
    this.#lines.end()
    await once(this.#lines, 'close')
  }

  /** Records the PSNR to the image of the float32 reference from the same noise. */
  async #compareImage(system: string, file: string, size: string): Promise<void> {
    try {
      const files = [file, path.join(this.#options.work, 'reference', `turbo-${size}.png`)]
      const [ours, theirs] = await Promise.all(files.map((name) => readPixels(name)))
      this.record(system, { metric: 'psnr_db', size, value: Math.min(99, psnr(ours!, theirs!)) })
    } catch (error) {
      this.record(system, { metric: 'psnr_db', size, value: null, error: String(error) })
    }
  }
}
