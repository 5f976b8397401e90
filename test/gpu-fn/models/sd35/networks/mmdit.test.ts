import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { computeRelativeError, createPseudoRandom, type FloatTensor } from '../../../../support/checkpoints/tensors.ts'
import {
  CASES,
  goldenOf,
  listSubjects,
  type OpenNetworks,
  shapeOf,
  TOLERANCE,
  useNetworks,
} from '../../../../support/checkpoints/tiny.ts'

describe.each(listSubjects('transformer'))('MMDiT of $variant, $layout, $tier', (subject) => {
  const networks = useNetworks(subject, ['conditioning', 'transformer'])

  it.each(CASES.transformer)('equals diffusers on $batch × $height × $width, $tokens text tokens', async (size) => {
    const golden = await goldenOf(subject)
    const { channels, patch } = shapeOf(subject).transformer
    const { joint_width, pooled_width } = networks().manifest.text
    const { modulation, context } = await networks().run('conditioning', {
      timesteps: { dims: [size.timesteps.length], data: Float32Array.from(size.timesteps) },
      prompt_embeds: createPseudoRandom([size.batch, size.tokens, joint_width], 2),
      pooled: createPseudoRandom([size.batch, pooled_width], 3),
    })
    const latent = createPseudoRandom([size.batch, channels, size.height, size.width], 1)
    const position = await readPositions(networks(), size.height / patch, size.width / patch)
    for (const step of size.timesteps.keys()) {
      const vectors = sliceSample(modulation!, step)
      const { velocity } = await networks().run('transformer', {
        latent,
        modulation: vectors,
        context: context!,
        ...position,
      })
      const expected = sliceSample(golden(`transformer.${size.name}.velocity`), step)
      expect(computeRelativeError(velocity!, expected)).toBeLessThan(TOLERANCE)
    }
  })
})

/** Entry `index` of a tensor's first axis. */
function sliceSample({ data, dims }: FloatTensor, index: number): FloatTensor {
  const length = data.length / dims[0]!
  return { dims: dims.slice(1), data: data.slice(index * length, (index + 1) * length) }
}

/** The middle [h·w, D] of the package's position table, where the graph does not hold it. */
async function readPositions(
  { manifest, directory }: OpenNetworks,
  h: number,
  w: number,
): Promise<Record<string, FloatTensor>> {
  const { file, max, width } = manifest.position
  if (file === undefined) return {}
  const { buffer } = new Uint8Array(await readFile(path.join(directory, file)))
  const table = new Float32Array(buffer)
  const [top, left] = [(max - h) >> 1, (max - w) >> 1]
  const rows = Array.from({ length: h }, (_, y) => ((top + y) * max + left) * width)
  const data = Float32Array.from(rows.flatMap((start) => Array.from(table.subarray(start, start + w * width))))
  return { position: { dims: [h * w, width], data } }
}
