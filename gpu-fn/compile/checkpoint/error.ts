import { escapeText } from '../../contract.ts'

/** A checkpoint that cannot be compiled; a retry does not help. The message names the file, the tensor and the allowed values. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError'
  readonly permanent = true
  readonly file: string

  constructor(file: string, problem: string, options?: ErrorOptions) {
    super(escapeText(`${file}: ${problem}`), options)
    this.file = file
  }
}

/** A name from an untrusted file, quoted, escaped and truncated for a message. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 120)}…` : name)
}

/** The first five names, quoted, and the number of the others. */
export function listNames(names: readonly string[]): string {
  const shown = names.slice(0, 5).map(quote).join(', ')
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown
}
