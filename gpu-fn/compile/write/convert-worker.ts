// The worker thread's entry: converts a block and hands its buffers over instead of copying them. A refusal crosses as plain text.
import { move, transferableSymbol, valueSymbol } from 'piscina'
import { CheckpointError } from '../checkpoint/error.ts'
import { type Block, type Converted, convert } from './convert.ts'

export type Outcome =
  | { readonly converted: Converted }
  | { readonly refused: { readonly file: string; readonly problem: string } }

// piscina asks for the default export of a worker file.
export default function run(block: Block): unknown {
  try {
    const converted = convert(block)
    const buffers = [converted.output.buffer, ...(converted.scales ? [converted.scales.buffer] : [])]
    return move({ [transferableSymbol]: buffers, [valueSymbol]: { converted } } as never)
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error
    return { refused: { file: error.file, problem: error.message.slice(error.file.length + 2) } }
  }
}
