// Compares steps as CUDA graphs with ordinary ones: changing inputs of more shapes than graphs are kept, with runs, openings and changes of
// weights of other sessions between them. All results must be identical, byte for byte.
import path from 'node:path'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { chooseGraphs, chooseProviderOptions } from '../../gpu-fn/engine/package/graphs.ts'
import type { Manifest, NetworkName } from '../../gpu-fn/manifest.ts'
import { drawGaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { openSession, type SessionOptions } from '../../gpu-fn/runtime/open-session.ts'
import type { Session, Tensor } from '../../gpu-fn/runtime/session.ts'
import { writeTinyCheckpoint } from '../../infra/checkpoints/tiny/checkpoint.ts'
import { makeScratch } from '../../infra/command/scratch.ts'
import { CHECKPOINTS } from '../../infra/local/models/built-in-model.ts'
import { render, withPipeline } from '../../infra/local/models/render.ts'

export type CaptureOptions = { readonly rounds: number }

/** Latents of each shape: samples, height and width, and the length of the prompt. More shapes than a session captures. */
const SHAPES = [
  ...[16, 32, 48].flatMap((h) => [
    { B: 1, h, w: 16, L: 96 },
    { B: 1, h, w: 24, L: 96 },
    { B: 2, h, w: 16, L: 128 },
  ]),
  { B: 1, h: 32, w: 32, L: 77 },
]
const REQUEST = { prompt: 'a red heart on a blue sky', steps: 8, guidance_scale: 3 }
/** Shapes of the first half of the rounds, which are captured and stay so. */
const KEPT = 3

/** Prints the number of different steps and images. Throws if there are any, or if a step was not captured. */
export async function compareCaptures({ rounds }: CaptureOptions): Promise<void> {
  await using temporary = makeScratch('octet-capture-')
  const tiny = await writeTinyCheckpoint(path.join(temporary.directory, 'checkpoint'), { variant: 'tiny-medium' })
  const checkpoints = { nano: [CHECKPOINTS.nano], custom: [tiny] }
  const failures: string[] = []
  for (const [variant, checkpoint] of Object.entries(checkpoints)) {
    const directory = path.join(temporary.directory, variant)
    const { manifest } = await compile({
      ...{ checkpoint, tier: 'fp8', target: 'cuda-fp8', out: directory },
      variant: variant as keyof typeof checkpoints,
    })
    const { different, states } = await countDifferences({ directory, manifest }, rounds)
    const images = await countDifferentImages(directory)
    const captured = states.filter((state) => state.endsWith(': captured')).length
    const good = different === 0 && images === 0 && captured === SHAPES.length
    console.log(
      `${good ? ' ' : '✗'} ${variant}: ${different} steps and ${images} images differ; ${captured} of ${SHAPES.length} shapes captured`,
    )
    for (const state of states) if (!state.endsWith('captured')) console.log(`    ${state}`)
    if (!good) failures.push(variant)
  }
  if (failures.length > 0) throw new Error(`steps as CUDA graphs are wrong or ordinary: ${failures.join(', ')}`)
}

type Opened = { directory: string; manifest: Manifest }

async function countDifferences(pkg: Opened, rounds: number): Promise<{ different: number; states: string[] }> {
  const [ordinary, captured] = [await open(pkg, 'transformer'), await open(pkg, 'transformer', { capture: true })]
  let [different, seed] = [0, 0]
  const states = new Set<string>()
  try {
    for (let round = 0; round < rounds; round++) {
      const shapes = round < rounds / 2 ? SHAPES.slice(0, KEPT) : SHAPES
      // Runs of a shape follow each other as in a job, and alternate as with guidance.
      for (const shape of round % 2 === 0 ? shapes : shapes.flatMap((each) => [each, each, each])) {
        const inputs = inputsOf(pkg.manifest, 'transformer', shape, seed++)
        const [expected, given] = [await ordinary.run(inputs), await captured.run(inputs)]
        if (!isEqual(expected.velocity!, given.velocity!)) different++
        for (const state of await captured.describeCaptures!()) states.add(state)
      }
      await disturb(pkg, captured, round)
    }
    return { different, states: [...states] }
  } finally {
    await ordinary.release()
    await captured.release()
  }
}

/** Images of alternating sizes with guidance. Without a budget, the memory plan allows captures. */
async function countDifferentImages(directory: string): Promise<number> {
  const make = (capture: boolean) =>
    withPipeline(
      directory,
      async (pipeline) => {
        if (pipeline.plan.captures > 0 !== capture) throw new Error('the memory plan does not follow the option')
        const files: Uint8Array[] = []
        for (const [seed, side] of [256, 128, 256, 128].entries())
          files.push(await render(pipeline, { ...REQUEST, width: side, height: side, seed }))
        return files
      },
      { capture },
    )
  const [ordinary, captured] = [await make(false), await make(true)]
  return captured.filter((file, i) => !Buffer.from(file).equals(ordinary[i]!)).length
}

/** Runs and opens other sessions, some of them during steps, and moves the weights out of the GPU and back. */
async function disturb(pkg: Opened, captured: Session, round: number): Promise<void> {
  const other = await open(pkg, 'conditioning')
  const inputs = inputsOf(pkg.manifest, 'conditioning', SHAPES[round % SHAPES.length]!, round)
  // Their results stay in the arena of all other sessions.
  const kept = await other.runOnDevice(inputs)
  const step = captured.run(inputsOf(pkg.manifest, 'transformer', SHAPES[round % SHAPES.length]!, round))
  const [decoder] = await Promise.all([open(pkg, 'vae_decoder'), step])
  await decoder.release()
  for (const tensor of Object.values(kept)) tensor.release()
  await other.release()
  if (round % 4 === 3) captured.weights!.unload()
}

function open({ directory, manifest }: Opened, network: NetworkName, options: Partial<SessionOptions> = {}) {
  const { networks, kernels } = chooseGraphs(manifest)
  const { file, weights } = networks[network]!
  const stored = weights && { file: path.join(directory, weights), tensors: manifest.weights[weights] ?? [] }
  return openSession(path.join(directory, file), {
    ...{ target: manifest.target, kernels, provider: chooseProviderOptions(network), weights: stored || undefined },
    ...options,
  })
}

type Axes = (typeof SHAPES)[number]

function inputsOf(manifest: Manifest, network: NetworkName, axes: Axes, seed: number): Record<string, Tensor> {
  const lengths: Record<string, number> = { ...axes, S: (axes.h * axes.w) / 4, T: 4 }
  return Object.fromEntries(
    manifest.networks[network]!.inputs.map(({ name, shape }, i) => {
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : lengths[dim]!))
      const size = dims.reduce((product, dim) => product * dim, 1)
      if (name === 'timesteps') return [name, { data: Float32Array.of(1000, 857.7, 602.2, 8.93), dims }]
      const noise = drawGaussianNoise(seed * 8 + i, size)
      return [name, { data: name === 'modulation' ? noise.map((value) => value * 0.2) : noise, dims }]
    }),
  )
}

/** Also false for values that are not finite, whose equality would prove nothing. */
const isEqual = ({ data: a }: Tensor, { data: b }: Tensor) =>
  (a as Float32Array).every(Number.isFinite) &&
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))
