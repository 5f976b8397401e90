// Parsers of numbers on the command line. They throw InvalidArgumentError, which commander shows with the name of the option.
import { InvalidArgumentError } from 'commander'

/** Parses a whole number from 0. */
export function parseWholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}

/** Parses a whole number from 1. */
export function parseCount(text: string): number {
  const count = parseWholeNumber(text)
  if (count === 0) throw new InvalidArgumentError('It must be at least 1.')
  return count
}

/** Parses a decimal number from 0. */
export function parseAmount(text: string): number {
  if (!/^\d+(\.\d+)?$/.test(text)) throw new InvalidArgumentError('It must be a number, such as 2 or 0.5.')
  return Number(text)
}
