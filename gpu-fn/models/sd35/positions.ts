// A checkpoint's position table [1, max·max, D] as a table of columns and a table of rows, if it is their exact combination.
import { closeFiles, readFloat32 } from '../../compile/checkpoint/formats/read-tensor.ts'
import type { Tensor } from '../../compile/checkpoint/tensor.ts'
import type { PositionTables } from './networks/mmdit.ts'

/**
 * The two tables [max, D / 2] if the first half of every entry depends on its column only and the second half on its row only, as in
 * `get_2d_sincos_pos_embed`; else null. Reads one row of the grid at a time.
 */
export function splitPositionTable(table: Tensor, max: number, width: number): PositionTables {
  try {
    return splitRows(table, max, width)
  } finally {
    closeFiles()
  }
}

function splitRows(table: Tensor, max: number, width: number): PositionTables {
  if (width % 2 !== 0) return null
  const half = width / 2
  const columns = new Int32Array(max * half)
  const rows = new Int32Array(max * half)
  // The tensor [1, max², D] is read as a matrix of D columns.
  for (let y = 0; y < max; y++) {
    const entries = new Int32Array(
      readFloat32({ tensor: table, start: y * max, end: (y + 1) * max, columns: width }).buffer,
    )
    for (let x = 0; x < max; x++) {
      const entry = entries.subarray(x * width, (x + 1) * width)
      if (y === 0) columns.set(entry.subarray(0, half), x * half)
      if (x === 0) rows.set(entry.subarray(half), y * half)
      if (!equal(entry, 0, columns, x * half, half) || !equal(entry, half, rows, y * half, half)) return null
    }
  }
  return { columns: new Float32Array(columns.buffer), rows: new Float32Array(rows.buffer) }
}

function equal(a: Int32Array, from: number, b: Int32Array, start: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (a[from + i] !== b[start + i]) return false
  return true
}
