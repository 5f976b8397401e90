// The fields of the form. They are saved at each change, so that a reload loses nothing.
import { computed, effect, signal } from '@preact/signals'
import type { Fields, LoraChoice, Route } from '../api/types.ts'
import { inputImage } from './input-image.ts'
import { computeSize } from './models.ts'

export type RouteChoice = 'auto' | Route | 'both'
type Draft = {
  prompt: string
  negative: string
  ratio: string
  route: RouteChoice
  seed: number
  isLocked: boolean
  count: number
  /** Empty for the offer's default. */
  steps: string
  guidance: string
  format: Fields['output_format']
  cache: 'off' | 'fast'
  loras: LoraChoice[]
}

export const SEED_MAX = 4_294_967_295
/** The most adapters of a request. */
export const LORAS_MAX = 8
export const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0]!

const EMPTY: Draft = {
  ...{ prompt: '', negative: '', ratio: '1:1', route: 'auto', isLocked: false, count: 1 },
  ...{ steps: '', guidance: '', format: 'png', cache: 'off', loras: [] },
  seed: newSeed(),
}
const STORED = 'octet.draft'

function readDraft(): Draft {
  try {
    return { ...EMPTY, ...(JSON.parse(localStorage.getItem(STORED) ?? '{}') as Partial<Draft>) }
  } catch {
    return EMPTY
  }
}

export const draft = signal<Draft>(readDraft())
export const change = (fields: Partial<Draft>): void => {
  draft.value = { ...draft.value, ...fields }
}
/** The field that the API rejected, and why. */
export const rejected = signal<{ param: string; message: string } | null>(null)
/** The message for a field that the API rejected. */
export const problemOf = (...params: string[]): string | null =>
  rejected.value && params.includes(rejected.value.param) ? rejected.value.message : null

effect(() => {
  localStorage.setItem(STORED, JSON.stringify(draft.value))
  rejected.value = null
})

const numberOf = (text: string) => (text.trim() === '' ? undefined : Number(text))

/** The routes that a choice names. */
export const routesOf = (choice: RouteChoice): Route[] =>
  choice === 'auto' ? [] : choice === 'both' ? ['turbo', 'full'] : [choice]

/** The requests that the form describes: one, or one per route. */
export const requests = computed<Fields[]>(() => {
  const { prompt, negative, ratio, route, seed, count, steps, guidance, format, cache, loras } = draft.value
  const [stepCount, scale] = [numberOf(steps), numberOf(guidance)]
  const input = inputImage.value
  const base: Fields = {
    ...{ prompt, size: computeSize(ratio), seed, n: count, output_format: format },
    ...(input && { image: input.image, strength: input.strength, ...(input.mask && { mask: input.mask }) }),
    ...(loras.length > 0 && { loras }),
  }
  const selectFieldsForRoute = (chosen: Route | undefined): Fields => ({
    ...base,
    ...(chosen && { route: chosen }),
    ...(negative.trim() !== '' && chosen !== 'turbo' && { negative_prompt: negative }),
    ...(stepCount !== undefined && route !== 'both' && { steps: stepCount }),
    ...(scale !== undefined && chosen !== 'turbo' && { guidance_scale: scale }),
    ...(cache === 'fast' && chosen !== 'turbo' && { cache }),
  })
  const named = routesOf(route)
  return named.length > 0 ? named.map(selectFieldsForRoute) : [selectFieldsForRoute(undefined)]
})

/** Fills the form with the fields of a run. */
export function useFields(fields: Fields, ratio: string): void {
  change({
    ...{ prompt: fields.prompt, negative: fields.negative_prompt ?? '', ratio, route: fields.route ?? 'auto' },
    ...{ seed: fields.seed, isLocked: true, count: fields.n, format: fields.output_format },
    ...{ steps: fields.steps?.toString() ?? '', guidance: fields.guidance_scale?.toString() ?? '' },
    cache: fields.cache ?? 'off',
    loras: fields.loras ?? [],
  })
}
