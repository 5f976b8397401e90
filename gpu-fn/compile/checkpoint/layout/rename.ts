// Renames tensors, stacks some, and exchanges the halves of some.
import { CheckpointError, listNames, quote } from '../error.ts'
import type { Part, Tensor } from '../tensor.ts'

/** The place of a tensor: the `index`-th of `count` row stacks of `name`; `swap` exchanges the two halves of its rows. */
export type Placement = { name: string; index: number; count: number; swap: boolean }

/** The number of indices in names that match `pattern`: the largest captured index plus 1. */
export function countOf(tensors: ReadonlyMap<string, unknown>, pattern: RegExp): number {
  let count = 0
  for (const name of tensors.keys()) count = Math.max(count, Number(pattern.exec(name)?.[1] ?? -1) + 1)
  return count
}

/** Renames every tensor by `place` and stacks the rows of those with one name. Throws CheckpointError for names without a place. */
export function rename(
  file: string,
  tensors: Map<string, Tensor>,
  place: (name: string) => Placement | undefined,
): Map<string, Tensor> {
  const stacks = new Map<string, { placement: Placement; pieces: (Tensor | undefined)[] }>()
  const unexpected: string[] = []
  for (const [name, tensor] of tensors) {
    const placement = place(name)
    if (!placement) {
      unexpected.push(name)
      continue
    }
    const stack = stacks.get(placement.name) ?? { placement, pieces: new Array<Tensor | undefined>(placement.count) }
    if (stack.pieces[placement.index]) throw new CheckpointError(file, `two tensors map to ${quote(placement.name)}`)
    stack.pieces[placement.index] = tensor
    stacks.set(placement.name, stack)
  }
  if (unexpected.length > 0)
    throw new CheckpointError(file, `unexpected tensors: ${listNames(unexpected)}; the model has no such parameters`)
  return new Map([...stacks].map(([name, { placement, pieces }]) => [name, stackRows(file, placement, pieces)]))
}

function stackRows(file: string, { name, count, swap }: Placement, pieces: readonly (Tensor | undefined)[]): Tensor {
  const present = pieces.filter((piece) => piece !== undefined)
  const first = present[0]!
  if (present.length < count) {
    throw new CheckpointError(
      file,
      `${quote(name)} is a stack of ${count} tensors; only ${listNames(present.map((p) => p.name))} exist`,
    )
  }
  for (const piece of present) {
    const differs = kindOf(piece) !== kindOf(first)
    if (differs) {
      throw new CheckpointError(
        file,
        `${quote(piece.name)} (${kindOf(piece)}) cannot be stacked on ${quote(first.name)} (${kindOf(first)})`,
      )
    }
  }
  const parts = present.flatMap((piece) => piece.parts)
  const rows = present.reduce((sum, piece) => sum + (piece.shape[0] ?? Number.NaN), 0)
  if (count > 1 && Number.isNaN(rows))
    throw new CheckpointError(file, `${listNames(present.map((p) => p.name))} have no rows to stack`)
  const shape = count === 1 ? first.shape : [rows, ...first.shape.slice(1)]
  return { name, shape, parts: swap ? swapHalves(file, first) : parts }
}

/** The shape of rows, which must be equal for tensors to be stacked; dtypes and scales may differ. */
function kindOf({ shape }: Tensor): string {
  return `[*, ${shape.slice(1).join(', ')}]`
}

function swapHalves(file: string, tensor: Tensor): Part[] {
  const rows = tensor.shape[0]
  if (rows === undefined || rows % 2 !== 0) {
    throw new CheckpointError(
      file,
      `${quote(tensor.name)} holds a scale and a shift and must have an even number of rows, not ${rows}`,
    )
  }
  return tensor.parts.flatMap((part) => {
    const half = part.bytes / 2
    const scales = typeof part.scale === 'number' ? [part.scale, part.scale] : halvesOf(part.scale)
    return [
      { ...part, offset: part.offset + half, bytes: half, scale: scales[1]! },
      { ...part, bytes: half, scale: scales[0]! },
    ]
  })
}

const halvesOf = (scales: Float32Array) => [scales.slice(0, scales.length / 2), scales.slice(scales.length / 2)]
