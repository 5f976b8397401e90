// The request for a route, and the decision.
import type { ImageOptions, Route, Tier } from '#contract'

export const QUALITIES = ['auto', 'draft', 'low', 'standard', 'medium', 'high'] as const

/** A note about the request for its caller. */
export type Warning = { code: string; message: string }

/** A size to be served by the nearest size of an offer, or a width divided by a height for the offer's default number of pixels. */
export type WantedSize = { width: number; height: number } | { aspect: number }

export type RouteRequest = {
  prompt: string
  negativePrompt: string
  quality: (typeof QUALITIES)[number]
  route?: Route | undefined
  model?: string | undefined
  tier?: Tier | undefined
  steps?: number | undefined
  guidanceScale?: number | undefined
  /** Fields of the request that have no effect without guidance, besides the negative prompt. */
  guidanceFields?: readonly string[]
  /** Whether the request has step caching, which only the full route offers. */
  isCached?: boolean
  /** Request fields with adapters or ControlNets, which only compatible offers can serve. */
  additions?: readonly string[]
  size?: { width: number; height: number } | undefined
  /** Replaces `size`. */
  wantedSize?: WantedSize | undefined
  /** Whether the available offers override the quality, because the request names a model. */
  isQualityHint?: boolean
  /** Micro-dollars of the whole request. */
  maxCost?: number | undefined
  maxLatencyMs?: number | undefined
}

export type Decision = {
  route: Route
  tier: Tier
  model: string
  /** The preferred endpoint, and its fallbacks in `fallbacks`. */
  endpoint: string
  fallbacks?: string[]
  steps: number
  guidanceScale: number
  /** The offer's sampler, for requests without the field `sampler`. */
  sampler: NonNullable<ImageOptions['sampler']>
  width: number
  height: number
  /** A sentence for humans. */
  reason: string
}
