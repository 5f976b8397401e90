import { InvalidArgumentError } from 'commander'

/** Parses a command-line argument. Throws InvalidArgumentError, which commander shows with the name of the option. */
export function parseWholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}
