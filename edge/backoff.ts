export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Spreads a pause by a quarter to either side, so that callers who failed together do not come back together. */
export const jittered = (ms: number) => ms * (0.75 + Math.random() / 2)
