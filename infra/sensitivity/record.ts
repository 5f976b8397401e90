// Runs of the float32 denoiser while it generates images: the inputs on which other precisions are compared, and the velocities.
import { isOnHost, type Session, type Tensor } from '../../gpu-fn/runtime/session.ts'
import { render, withPipeline } from '../local/models/render.ts'

export type CalibrationPrompt = { readonly prompt: string; readonly seed: number }
/** One run of the step graph. */
export type Recorded = { readonly inputs: Record<string, Tensor>; readonly velocity: Float32Array }

/** Records `runs` runs of each prompt, evenly spaced over its steps, the first one included. `directory`: a package for the CPU. */
export async function recordRuns(
  directory: string,
  prompts: readonly CalibrationPrompt[],
  runs: number,
): Promise<Recorded[]> {
  return withPipeline(directory, async (pipeline) => {
    const recorded: Recorded[] = []
    for (const { prompt, seed } of prompts) {
      const all: Recorded[] = []
      await render({ ...pipeline, transformer: recording(pipeline.transformer, all) }, { prompt, seed })
      recorded.push(...Array.from({ length: runs }, (_, i) => all[Math.floor((i * all.length) / runs)]!))
    }
    return recorded
  })
}

/** The session, with copies of the inputs and the velocity of each run appended to `recorded`. */
const recording = (session: Session, recorded: Recorded[]): Session => ({
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
