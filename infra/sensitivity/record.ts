// Recorded inputs and velocities of the float32 denoiser during image generation, as the reference for other precisions.
import { isOnHost, type Session, type Tensor } from '../../gpu-fn/runtime/session.ts'
import { render, withPipeline } from '../local/models/render.ts'

export type CalibrationPrompt = { readonly prompt: string; readonly seed: number }
/** Inputs and output of one run of the step graph. */
export type RecordedRun = { readonly inputs: Record<string, Tensor>; readonly velocity: Float32Array }

/** Records `runs` runs per prompt, evenly spaced over the steps from the first. `directory`: a CPU package. */
export async function recordRuns(
  directory: string,
  prompts: readonly CalibrationPrompt[],
  runs: number,
): Promise<RecordedRun[]> {
  return withPipeline(directory, async (pipeline) => {
    const recorded: RecordedRun[] = []
    for (const { prompt, seed } of prompts) {
      const all: RecordedRun[] = []
      await render({ ...pipeline, transformer: createRecordingSession(pipeline.transformer, all) }, { prompt, seed })
      recorded.push(...Array.from({ length: runs }, (_, i) => all[Math.floor((i * all.length) / runs)]!))
    }
    return recorded
  })
}

/** Wraps the session; each run appends copies of its inputs and velocity to `recorded`. */
const createRecordingSession = (session: Session, recorded: RecordedRun[]): Session => ({
  ...session,
  async run(inputs, options) {
    const copies = Object.entries(inputs).map(([name, tensor]): [string, Tensor] => {
      if (!isOnHost(tensor)) throw new Error(`${name} is on a device; runs are recorded on the CPU`)
      return [name, { data: tensor.data.slice(), dims: tensor.dims }]
    })
    const outputs = await session.run(inputs, options)
    recorded.push({ inputs: Object.fromEntries(copies), velocity: (outputs.velocity!.data as Float32Array).slice() })
    return outputs
  },
})
