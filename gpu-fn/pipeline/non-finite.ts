/** NaN or infinity in the output of a network. */
export class NonFiniteError extends Error {
  override name = 'NonFiniteError' as const

  constructor(what: string) {
    super(`${what} contains NaN or infinity`)
  }
}

/** Throws NonFiniteError with the name `what` unless all values are finite. */
export function assertFinite(values: Float32Array, what: string): void {
  if (!values.every(Number.isFinite)) throw new NonFiniteError(what)
}
