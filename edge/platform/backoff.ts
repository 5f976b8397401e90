/** Adds ±25% jitter to a pause, so that callers that failed at the same time do not retry at the same time. */
export const addJitter = (ms: number) => ms * (0.75 + Math.random() / 2)

/** The pause in milliseconds before the next try after `failures` failures: it doubles from `first` to `max`, with jitter. */
export const retryPauseMs = (failures: number, { first, max }: { first: number; max: number }) =>
  addJitter(Math.min(max, first * 2 ** Math.max(0, failures - 1)))
