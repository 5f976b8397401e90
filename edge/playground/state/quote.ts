// The price and the forecast of the form's request, read 300 ms after the last change.
import { computed, effect, signal } from '@preact/signals'
import { call, isProblem, type Problem } from '../api/http.ts'
import { credential } from '../api/session.ts'
import type { Fields, Quote } from '../api/types.ts'
import { draft, rejected, requests } from './draft.ts'

type QuoteState = { quotes: Quote[]; problem: Problem | null; isStale: boolean }
export const quote = signal<QuoteState>({ quotes: [], problem: null, isStale: false })
export const price = computed(() => quote.value.quotes.reduce((sum, each) => sum + each.price_microdollars, 0))
/** Counts requests for a new quote of the same fields, as after a run. */
const refreshes = signal(0)
export const refreshQuote = () => {
  refreshes.value++
}

const PAUSE_MS = 300

/** A price depends on the strength of an input image, not on the image itself. */
const withoutFiles = <T extends Partial<Fields>>({ image: _, mask: __, ...fields }: T) => fields

async function ask(wanted: Fields[], signal: AbortSignal): Promise<void> {
  try {
    const quotes = await Promise.all(
      wanted.map((fields) => call<Quote>('POST', '/v1/quote', withoutFiles(fields), { signal })),
    )
    quote.value = { quotes, problem: null, isStale: false }
  } catch (error) {
    if (!isProblem(error)) return
    quote.value = { quotes: [], problem: error, isStale: false }
    if (error.param) rejected.value = { param: error.param, message: error.message }
  }
}

/** The fields that change the price or the route. The seed does not. */
const priced = computed(() => JSON.stringify(requests.value.map(({ seed: _, ...fields }) => withoutFiles(fields))))

export function watchQuote(): void {
  watchGpu()
  effect(() => {
    refreshes.value
    priced.value
    if (!credential.value || draft.peek().prompt.trim() === '') {
      quote.value = { quotes: [], problem: null, isStale: false }
      return
    }
    quote.value = { ...quote.peek(), isStale: true }
    const abort = new AbortController()
    const timer = setTimeout(() => void ask(requests.peek(), abort.signal), PAUSE_MS)
    return () => {
      clearTimeout(timer)
      abort.abort()
    }
  })
}

const [WATCH_MS, MAX_WATCHES] = [5000, 12]

/** Reads the quote again while the GPU is not warm, for a minute after the last change of the form. */
function watchGpu(): void {
  let [left, watched] = [MAX_WATCHES, '']
  effect(() => {
    const isCold = quote.value.quotes.some(({ gpu }) => gpu && gpu.state !== 'warm')
    if (watched !== priced.value) [left, watched] = [MAX_WATCHES, priced.value]
    if (!isCold || quote.value.isStale || left === 0) return
    left--
    const timer = setTimeout(refreshQuote, WATCH_MS)
    return () => clearTimeout(timer)
  })
}

let prewarmed = 0
/** Starts the GPU ahead of a run, at most once a minute. */
export function prewarm(): void {
  if (!credential.value || Date.now() - prewarmed < 60_000) return
  prewarmed = Date.now()
  call('POST', '/v1/prewarm').then(refreshQuote, () => {})
}
