// Limits of the circuit breaker of a receiver (receivers.ts).

/** The number of consecutive failures that opens a circuit breaker. */
export const FAILURES_TO_OPEN = 5
/** The longest time that a circuit breaker stays open before a trial. */
export const LONGEST_OPEN_MS = 600_000
