import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  BudgetError,
  type Execution,
  memoryOfAll,
  planMemory as planFor,
} from '../../../../gpu-fn/engine/package/memory-plan.ts'
import type { Manifest } from '../../../../gpu-fn/manifest.ts'
import { describeText } from '../../../../gpu-fn/models/sd35/text-encoders.ts'

const GIB = 2 ** 30

const T5_GRAPHS = ['t5', 't5_2', 't5_3', 't5_4']
const NETWORKS = ['clip_l', 'clip_g', ...T5_GRAPHS, 'conditioning', 'transformer', 'vae_decoder']
const CLIP = { width: 768, pooledWidth: 768, tokens: 77 }
const TEXT = describeText(
  { clip_l: CLIP, clip_g: CLIP, t5: { graphs: T5_GRAPHS } },
  { contextWidth: 4096, pooledWidth: 2048 },
)

/** Gigabytes of weights as `npm run compile` writes them for the published shapes. */
const WEIGHTS = {
  'large fp8': [0.25, 1.39, 1.47, 1.16, 1.16, 1.16, 5.4, 5.36, 0.1],
  'large fp16': [0.25, 1.39, 2.58, 2.31, 2.31, 2.31, 5.4, 10.7, 0.1],
  'medium fp8': [0.25, 1.39, 1.47, 1.16, 1.16, 1.16, 1.56, 1.47, 0.1],
} as const
const WIDTH = { 'large fp8': 2432, 'large fp16': 2432, 'medium fp8': 1536 }
const MODULATIONS = { 'large fp8': 454, 'large fp16': 454, 'medium fp8': 325 }

type Name = keyof typeof WEIGHTS

function describeNetworks(name: Name): Pick<Manifest, 'files' | 'networks' | 'latent' | 'position' | 'text'> {
  const files = NETWORKS.map((network, i) => [`${network}.weights`, { bytes: WEIGHTS[name][i]! * 1e9, sha256: '' }])
  const modulation = {
    name: 'modulation',
    dtype: 'float32',
    shape: ['T', 'B', WIDTH[name] * MODULATIONS[name]],
  } as const
  const networks = NETWORKS.map((network) => [
    network,
    { file: '', weights: `${network}.weights`, inputs: [], outputs: network === 'conditioning' ? [modulation] : [] },
  ])
  return {
    files: Object.fromEntries(files),
    networks: Object.fromEntries(networks),
    latent: { channels: 16, downsample: 8, patch_size: 2 },
    position: { max: 192, width: WIDTH[name] },
    text: TEXT,
  }
}

const WEIGHT_ONLY: Execution = { target: 'cuda', samples: 1, widening: 1 }
const NATIVE: Execution = { target: 'cuda-fp8', samples: 2, widening: 1 }
const planMemory = (
  manifest: ReturnType<typeof describeNetworks>,
  size: { width: number; height: number },
  budget: number | null,
  how: Execution = WEIGHT_ONLY,
) => planFor(manifest, size, budget, how)

test('two packages of Large share one arena, so that both stay open on a 40 GB GPU', () => {
  const plan = planMemory(describeNetworks('large fp8'), createSquare(1024), 40 * GIB, NATIVE)
  expect(plan.offloaded).toEqual([])
  expect(memoryOfAll([plan, plan])).toBeLessThan(40 * GIB * 0.97)
  expect(memoryOfAll([plan, plan])).toBeGreaterThan(2 * 17e9)
})

const createSquare = (side: number) => ({ width: side, height: side })

test('without a budget, all networks are resident and nothing is reloaded', () => {
  expect(planMemory(describeNetworks('large fp16'), createSquare(1024), null)).toMatchObject({
    resident: [...NETWORKS],
    offloaded: [],
    tile: null,
    reread: 0,
  })
})

test.each<[Name, number, { width: number; height: number }, number | null]>([
  ['large fp8', 8, createSquare(1024), 64],
  ['large fp8', 8, { width: 1024, height: 768 }, 64],
  ['large fp8', 15, createSquare(1024), null],
  ['medium fp8', 4, createSquare(1024), 64],
  ['medium fp8', 6, createSquare(1024), null],
  ['medium fp8', 4, createSquare(1440), 48],
  ['large fp16', 24, createSquare(1024), null],
])('%s fits in %d GB at %o, decoded in tiles of %s latents', (name, gigabytes, size, tile) => {
  for (const how of [WEIGHT_ONLY, NATIVE]) {
    const plan = planMemory(describeNetworks(name), size, gigabytes * GIB, how)
    expect(plan.peak).toBeLessThanOrEqual(gigabytes * GIB)
    expect(plan.tile).toBe(tile)
    expect([...plan.resident, ...plan.offloaded].sort()).toEqual([...NETWORKS].sort())
    expect(plan.offloaded).not.toEqual([])
  }
})

test('the denoiser is resident if possible, and the networks that are cheapest to reload are reloaded', () => {
  const plan = planMemory(describeNetworks('large fp16'), createSquare(1024), 24 * GIB)
  expect(plan.resident).toContain('transformer')
  expect(plan.reread).toBeLessThan(9e9)
})

test('the decoder uses tiles only if the whole image does not fit', () => {
  expect(planMemory(describeNetworks('medium fp8'), createSquare(1440), 8 * GIB).tile).toBeNull()
  const plan = planMemory(describeNetworks('medium fp8'), createSquare(1440), 5 * GIB)
  expect(plan.tile).toBeGreaterThanOrEqual(64)
  expect(plan.peak).toBeLessThanOrEqual(5 * GIB)
})

test('on a GPU, loaded networks reuse the memory of unloaded ones, and the decoder is resident', () => {
  const bytesOf = (networks: readonly string[]) =>
    networks.map((network) => WEIGHTS['large fp8'][NETWORKS.indexOf(network)]! * 1e9)
  for (const gigabytes of [8, 9, 11, 13, 15, 18]) {
    const plan = planMemory(describeNetworks('large fp8'), createSquare(1024), gigabytes * GIB, NATIVE)
    const kept = bytesOf(plan.resident).reduce((sum, bytes) => sum + bytes)
    expect(plan.resident).toContain('vae_decoder')
    expect(plan.peak).toBeGreaterThan(kept + Math.max(...bytesOf(plan.offloaded)))
    expect(plan.peak).toBeLessThan(kept + Math.max(...bytesOf(plan.offloaded)) + 5e9)
  }
})

test('on the CPU, each session has its own scratch memory, which is freed with the session', () => {
  const onCpu: Execution = { target: 'cpu', samples: 2, widening: 1 }
  const roomy = planMemory(describeNetworks('medium fp8'), createSquare(1024), null, onCpu)
  const tight = planMemory(describeNetworks('medium fp8'), createSquare(1024), 8 * GIB, onCpu)
  expect(roomy.peak).toBeGreaterThan(planMemory(describeNetworks('medium fp8'), createSquare(1024), null, NATIVE).peak)
  expect(tight.offloaded).toContain('vae_decoder')
})

test('a budget below the minimum is refused with the required amount', () => {
  expect(() => planMemory(describeNetworks('large fp8'), createSquare(1024), 2 * GIB)).toThrow(BudgetError)
  expect(() => planMemory(describeNetworks('large fp8'), createSquare(1024), 2 * GIB)).toThrow(
    /^1024x1024 needs at least \d\.\d\d GB of device memory; the budget is 2\.15 GB$/,
  )
})

test('more memory never increases reloads, and no plan exceeds its budget', () => {
  const budget = fc.integer({ min: 1, max: 40 * 1024 })
  fc.assert(
    fc.property(fc.constantFrom<Name>('large fp8', 'large fp16', 'medium fp8'), budget, budget, (name, a, b) => {
      const [less, more] = [Math.min(a, b), Math.max(a, b)].map((mib) => {
        try {
          return planMemory(describeNetworks(name), createSquare(1024), mib * 2 ** 20)
        } catch (error) {
          expect(error).toBeInstanceOf(BudgetError)
          return null
        }
      })
      for (const plan of [less, more]) if (plan) expect(plan.peak).toBeLessThanOrEqual(plan.budget!)
      if (less)
        expect(more!.tile === null ? more!.reread : 0).toBeLessThanOrEqual(less.tile === null ? less.reread : Infinity)
    }),
    { numRuns: 60 },
  )
})

describe('a ControlNet', () => {
  const createNetwork = (name: string, modulation: number) => ({
    ...{ file: '', weights: `${name}.weights`, inputs: [] },
    outputs: [{ name: 'modulation', dtype: 'float32' as const, shape: ['T', 'B', modulation] }],
  })
  const BYTES = { control_conditioning: 1.35e9, control: 1.6e9 }
  const controlnet = {
    widening: 1,
    manifest: {
      files: Object.fromEntries(
        Object.entries(BYTES).map(([name, bytes]) => [`${name}.weights`, { bytes, sha256: '' }]),
      ),
      networks: {
        control_conditioning: createNetwork('control_conditioning', 2432 * 114),
        control: createNetwork('control', 1),
      },
      shape: { layers: 19, width: 2432, channels: 16, patch_size: 2, pooled_width: 2048 },
    },
  }
  const how: Execution = { ...WEIGHT_ONLY, controlnet }
  const size = { width: 1024, height: 1024 }

  test('is counted with its weights, residuals and sessions', () => {
    const [without, guided] = [WEIGHT_ONLY, how].map((each) =>
      planMemory(describeNetworks('large fp8'), size, null, each),
    )
    const residuals = 4096 * 2432 * 2 * 20
    const sessions = 4 * 72 * 2 ** 20
    expect(guided!.peak - without!.peak).toBe(BYTES.control_conditioning + BYTES.control + residuals + sessions)
    expect(guided!.resident).toEqual(expect.arrayContaining(['control', 'control_conditioning']))
  })

  test('takes turns with other networks within a budget, or is refused', () => {
    const { peak } = planMemory(describeNetworks('large fp8'), size, null)
    const tight = planMemory(describeNetworks('large fp8'), size, peak, how)
    expect(tight.peak).toBeLessThanOrEqual(peak)
    expect(tight.offloaded.length).toBeGreaterThan(1)
    expect(() => planMemory(describeNetworks('large fp8'), size, 4 * GIB, how)).toThrow(BudgetError)
  })
})

test('jobs that share steps keep their conditions on the device at the same time', () => {
  const peakOf = (sharing: number) =>
    planMemory(describeNetworks('large fp8'), { width: 1024, height: 1024 }, null, { ...NATIVE, sharing }).peak
  /** Bytes of 50 steps of two samples. */
  const conditions = 50 * 2 * WIDTH['large fp8'] * MODULATIONS['large fp8'] * 4
  expect(peakOf(4) - peakOf(1)).toBeGreaterThan(3 * conditions)
})

test('steps are captured only if all networks are resident and the budget has memory for a second arena', () => {
  const manifest = describeNetworks('large fp8')
  const size = createSquare(1024)
  const planOf = (budget: number | null, how = NATIVE) => planMemory(manifest, size, budget, { ...how, capture: true })
  const plain = planMemory(manifest, size, null, NATIVE)
  const captured = planOf(null)
  expect(plain.captures).toBe(0)
  expect(captured.captures).toBeGreaterThan(256 * 2 ** 20)
  expect(captured).toEqual({ ...plain, peak: plain.peak + captured.captures, captures: captured.captures })
  expect(planOf(captured.peak).captures).toBe(captured.captures)
  // Otherwise the plan is that without captures.
  expect(planOf(captured.peak - 1)).toEqual({ ...plain, budget: captured.peak - 1 })
  expect(planOf(plain.peak - 1)).toMatchObject({ captures: 0, offloaded: expect.arrayContaining([expect.anything()]) })
  expect(planOf(null, WEIGHT_ONLY).captures).toBe(0)
})

test('a plan with the memory arena of larger images has fewer resident networks', () => {
  const manifest = describeNetworks('large fp8')
  const small = { width: 512, height: 512 }
  const { shared } = planMemory(manifest, { width: 2048, height: 2048 }, null, NATIVE)
  const whole = planMemory(manifest, small, null, NATIVE)
  expect(whole.shared).toBeLessThan(shared)
  const beside = planMemory(manifest, small, whole.peak, { ...NATIVE, shared })
  expect(beside.shared).toBe(shared)
  expect(beside.peak).toBeLessThanOrEqual(whole.peak)
  expect(beside.resident.length).toBeLessThan(whole.resident.length)
})
