// Does the engine still work? Faults of jobs cannot answer that: a caller may send a request that always fails. So after several jobs
// that failed in a row, requests of our own decide.
import type { Logger } from 'pino'
import type { Engine } from './engine.ts'
import { type Job, outcome } from './job.ts'

/** So many different jobs that fail in a row are a reason to test the engine. */
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
      log.error({ err: error, model: model.model, tier: model.tier }, 'the model failed the test of the engine')
      return false
    }
  }

  async function test(): Promise<void> {
    for (const model of engine.models) {
      if (!(await passes(model))) continue
      faulty.clear()
      log.warn({ model: model.model, tier: model.tier }, 'the engine passed its test after jobs that failed in a row')
      return
    }
    isBroken = true
    onBroken()
  }

  return {
    /** Records the end of a job, before the next one starts. `fault`: something failed that the request is not known to be the cause of. */
    async record(job: Job, fault: boolean): Promise<void> {
      if (fault) faulty.add(job.id)
      // A refusal or a canceled job is no evidence either way.
      else if (outcome(job)?.type === 'succeeded') faulty.clear()
      if (faulty.size >= FAULTS_IN_A_ROW && !isBroken) await test()
    },
  }
}
