// Terminal output that may contain untrusted text, such as the names of servers, files and authors.
import { escapeText } from '../../gpu-fn/contract.ts'

const escapeLines = (text: string) => text.split('\n').map(escapeText).join('\n')

/** Prints lines, each escaped for the terminal. */
export const print = (text: string): void => console.log(escapeLines(text))

/** Prints an error of a command, escaped for the terminal. */
export const printError = (command: string, { message }: Error): void =>
  console.error(escapeLines(`${command}: ${message}`))
