// Limits of a webhook receiver's circuit breaker (receivers.ts).

/** Consecutive failures before a circuit breaker opens. */
export const FAILURES_TO_OPEN = 5
/** Maximum time between the opening of a circuit breaker and a trial. */
export const LONGEST_OPEN_MS = 600_000
