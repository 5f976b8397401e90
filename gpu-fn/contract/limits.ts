/** Limits that both sides enforce. Sizes are pixels; `side` must also be divisible by 16. */
export const LIMITS = {
  promptCharacters: 10_000,
  /** The range of Medium's position table, which is the largest; each model has its own limit. */
  side: { min: 16, max: 6144, multipleOf: 16 },
  steps: { min: 1, max: 200 },
  guidanceScale: { min: 0, max: 30 },
  shift: { min: 0.01, max: 100 },
  /** Minimum number of steps for step caching: with fewer, velocities change too much from step to step. */
  cacheSteps: 28,
  /** With more steps, the schedule `beta` would have equal noise levels. */
  betaSteps: 100,
  /** Blocks of a denoiser. */
  layers: 64,
  /** Tokens of T5. */
  maxSequenceLength: { min: 77, max: 512 },
  count: { min: 1, max: 8 },
  seedMax: '18446744073709551615',
  requestBytes: 256 * 1024,
  eventLineBytes: 64 * 1024,
  imageBytes: 64 * 1024 * 1024,
  previewBytes: 256 * 1024,
  /** Maximum size of each input file. */
  inputBytes: 16 * 1024 * 1024,
  /** Maximum number of pixels of an input image: that of the largest result, so that every result can be an input. */
  inputPixels: 6144 * 6144,
  /** Below the minimum, a job would run no step. */
  strength: { min: 0.01, max: 1 },
  maskFeather: 256,
  heartbeatMs: 5_000,
  /** Maximum number of adapters of a job, and maximum magnitude of an adapter's strength. */
  loras: { max: 8, scale: 4 },
  /** Maximum number of ControlNets of a job, and maximum strength. */
  controls: { max: 1, scale: 4 },
} as const
