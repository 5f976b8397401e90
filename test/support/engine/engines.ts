// Engines over packages of a tiny model.
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pino } from 'pino'
import { afterAll, beforeAll, onTestFinished } from 'vitest'
import { type EngineOptions, PackageEngine } from '../../../gpu-fn/engine/package-engine.ts'
import type { Stall } from '../../../gpu-fn/engine/watchdog.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { compileTiny } from '../checkpoints/compile.ts'

/** Call it at the top of a test file. `scratch` is the file's directory; `packages`, below it, has the model in tiers fp8 and fp32. */
export function useEngines() {
  const engines = { scratch: '', packages: '', start }
  beforeAll(async () => {
    engines.scratch = await mkdtemp(path.join(tmpdir(), 'octet-engine-'))
    engines.packages = path.join(engines.scratch, 'packages')
    for (const tier of ['fp8', 'fp32'] as const)
      await cp(await compileTiny({ tier }), path.join(engines.packages, `custom-${tier}`), { recursive: true })
  })
  afterAll(() => rm(engines.scratch, { recursive: true }))

  /** A started engine, which stops with the test, and the messages it logs. */
  async function start(options: Partial<EngineOptions> = {}) {
    const logs: { msg: string; err?: { message: string } }[] = []
    const log = pino({}, { write: (line) => void logs.push(JSON.parse(line)) })
    const stalls: Stall[] = []
    const limits = { memoryBytes: 1e9, stallSeconds: 60, onStall: (stall: Stall) => stalls.push(stall) }
    const verifier = new Verifier({ directory: path.join(engines.scratch, 'cache'), log })
    const engine = new PackageEngine({ packages: engines.packages, verifier, log, ...limits, ...options })
    onTestFinished(() => engine.stop())
    await engine.start()
    return { engine, logs, stalls }
  }
  return engines
}
