// Health check of the engine. Job failures alone are not conclusive, because a request may always fail. After several consecutive failures
// the engine is tested with known requests.
import type { Logger } from 'pino'
import type { Engine } from '../engine/engine.ts'
import { type Job, outcomeOf } from './job.ts'

/** Number of different jobs that fail in a row before the engine is tested. */
const FAULTS_IN_A_ROW = 3

/** `onBroken` is called once, when no model of the engine passes the test. */
export function createEngineHealth(engine: Engine, log: Logger, onBroken: () => void) {
  const faulty = new Set<string>()
  let isBroken = false

  /** Loads a model and runs it for one step, at its default size. */
  async function passes(model: Engine['models'][number]): Promise<boolean> {
    try {
      await engine.load(model)
      await engine.warm(model)
      return true
    } catch (error) {
      log.error({ err: error, model: model.model, tier: model.tier }, 'the model failed the engine test')
      return false
    }
  }

  async function test(): Promise<void> {
    for (const model of engine.models) {
      if (!(await passes(model))) continue
      faulty.clear()
      log.warn({ model: model.model, tier: model.tier }, 'the engine passed its test after consecutive job failures')
      return
    }
    isBroken = true
    onBroken()
  }

  return {
    /** Records the end of a job, before the next one starts. `fault`: the job failed, and not evidently because of its request. */
    async record(job: Job, fault: boolean): Promise<void> {
      if (fault) faulty.add(job.id)
      // A refused or canceled job is not conclusive.
      else if (outcomeOf(job)?.type === 'succeeded') faulty.clear()
      if (faulty.size >= FAULTS_IN_A_ROW && !isBroken) await test()
    },
  }
}
