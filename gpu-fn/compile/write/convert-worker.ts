// Entry of a conversion thread: converts a block and transfers its buffers. A CheckpointError is returned as text.
import { move, transferableSymbol, valueSymbol } from 'piscina'
import { CheckpointError } from '../checkpoint/error.ts'
import { type Block, type ConvertedBlock, convert } from './convert.ts'

export type Outcome =
  | { readonly converted: ConvertedBlock; readonly refused: null }
  | { readonly converted: null; readonly refused: { readonly file: string; readonly problem: string } }

// piscina calls the default export of a worker file.
export default function run(block: Block): unknown {
  try {
    const converted = convert(block)
    const { output, scales, groupScales } = converted
    const buffers = [output, scales, groupScales].flatMap((part) => part?.buffer ?? [])
    return move({ [transferableSymbol]: buffers, [valueSymbol]: { converted, refused: null } } as never)
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error
    return { converted: null, refused: { file: error.file, problem: error.message.slice(error.file.length + 2) } }
  }
}
