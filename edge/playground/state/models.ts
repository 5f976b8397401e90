// The served models, and the sizes that they offer.
import { computed, effect, signal } from '@preact/signals'
import { call } from '../api/http.ts'
import { credential } from '../api/session.ts'
import type { Lora, Model, Route } from '../api/types.ts'
import { fitsRoutes } from './adapters.ts'

export const models = signal<Model[]>([])

export const RATIOS = ['1:1', '4:3', '3:4', '3:2', '2:3', '16:9', '9:16'] as const
const MULTIPLE = 16
const roundSide = (side: number) => Math.max(MULTIPLE, Math.round(side / MULTIPLE) * MULTIPLE)

const offers = computed(() => models.value.flatMap(({ octet }) => octet))
const findMax = (values: number[], otherwise: number) => (values.length > 0 ? Math.max(...values) : otherwise)

/** The size of an aspect ratio with the area of the default size, within the limits of the offers. */
export function computeSize(ratio: string): string {
  const [first] = offers.value
  if (!first) return 'auto'
  const [wide, high] = ratio.split(':').map(Number) as [number, number]
  const area = first.width * first.height
  const side = findMax(
    offers.value.map((offer) => offer.max_side),
    Math.max(first.width, first.height),
  )
  const width = Math.min(side, Math.sqrt((area * wide) / high))
  return `${roundSide(width)}x${roundSide((width * high) / wide)}`
}

/** The ratio whose size is this one, else the square. */
export const ratioOf = (size: string) => RATIOS.find((ratio) => computeSize(ratio) === size) ?? '1:1'

/** The adapters of the served models, each once. */
export const loras = computed<Lora[]>(() => [
  ...new Map(models.value.flatMap(({ octet_loras }) => octet_loras).map((lora) => [lora.id, lora])).values(),
])

/** The adapters with a compatible offer on each of these routes. */
export const findLoras = (routes: readonly Route[]): Lora[] =>
  loras.value.filter(({ id }) => fitsRoutes(id, routes, models.value))

export function watchModels(): void {
  effect(() => {
    if (!credential.value) return
    call<{ data: Model[] }>('GET', '/v1/models').then(
      ({ data }) => {
        models.value = data
      },
      // The quote reports a problem of the credential.
      () => {},
    )
  })
}
