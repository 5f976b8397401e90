/** Adds ±25% jitter to a pause, so that callers that failed at the same time do not retry at the same time. */
export const jittered = (ms: number) => ms * (0.75 + Math.random() / 2)

/** The pause in milliseconds before the next try after `failures` failures: it doubles from `first` to `most`, with jitter. */
export const retryPauseMs = (failures: number, { first, most }: { first: number; most: number }) =>
  jittered(Math.min(most, first * 2 ** Math.max(0, failures - 1)))
