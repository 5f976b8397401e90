import { InvalidArgumentError } from 'commander'

/** Reads an argument of a command line. Throws InvalidArgumentError, which commander shows beside the option's name. */
export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('a whole number is wanted')
  return Number(text)
}
