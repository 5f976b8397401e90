// The quantized formats of layers in a header's metadata, as ComfyUI (QUANTIZATION.md) and ModelOpt write them.
import { CheckpointError, quote } from '../error.ts'
import { isRecord, parseObject } from './json.ts'

const KEY = '_quantization_metadata'

/** The format of each layer, by its name in the file; empty if there is no such metadata. Throws CheckpointError. */
export function readLayerFormats(file: string, metadata: ReadonlyMap<string, string>): Map<string, string> {
  const text = metadata.get(KEY)
  if (text === undefined) return new Map()
  const where = `${file}, __metadata__ ${quote(KEY)}`
  const { layers } = parseObject(where, Buffer.from(text), { depth: 4, commas: 1_000_000 })
  if (!isRecord(layers)) throw new CheckpointError(where, '"layers" is not an object')
  return new Map(Object.entries(layers).map(([layer, entry]) => [layer, formatOf(where, layer, entry)]))
}

function formatOf(where: string, layer: string, entry: unknown): string {
  const { format, convrot } = isRecord(entry) ? entry : {}
  if (typeof format !== 'string') throw new CheckpointError(where, `${quote(layer)} has no format`)
  return convrot ? `${format} with rotated inputs` : format
}
