// The engine's thread, whose sessions fail on request.
import { setTimeout as sleep } from 'node:timers/promises'
import * as ort from 'onnxruntime-node'
import { CHANNEL, type EngineFault } from './faults.ts'

const SLOW_MS = 300
let armed: EngineFault | null = null
const channel = new BroadcastChannel(CHANNEL)
channel.onmessage = ({ data }) => {
  armed = data as EngineFault
}

type Outputs = Awaited<ReturnType<ort.InferenceSession['run']>>

async function raise(fault: EngineFault, run: () => Promise<Outputs>): Promise<Outputs> {
  switch (fault) {
    case 'throw':
      throw new Error('a session failed')
    case 'out of memory':
      throw new Error('Failed to allocate memory for requested buffer of size 1')
    case 'thread ends':
      return process.exit(1)
    case 'thread throws':
      setImmediate(() => {
        throw new Error('the thread failed')
      })
      return run()
    case 'slow':
      await sleep(SLOW_MS)
      return run()
    case 'not a number': {
      const outputs = await run()
      for (const { data } of Object.values(outputs)) if (data instanceof Float32Array) data.fill(Number.NaN)
      return outputs
    }
  }
}

const create = ort.InferenceSession.create.bind(ort.InferenceSession) as (
  ...given: unknown[]
) => Promise<ort.InferenceSession>
Object.assign(ort.InferenceSession, {
  async create(...given: unknown[]) {
    const session = await create(...given)
    const run = session.run.bind(session) as (...given: unknown[]) => Promise<Outputs>
    session.run = (...inputs: unknown[]) => {
      const fault = armed
      armed = null
      return fault ? raise(fault, () => run(...inputs)) : run(...inputs)
    }
    return session
  },
})
await import('../../../gpu-fn/engine/worker.ts')
