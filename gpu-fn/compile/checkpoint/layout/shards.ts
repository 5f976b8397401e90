// A checkpoint in several safetensors files, with the file of each tensor in a `….safetensors.index.json` beside them.
import path from 'node:path'
import { CheckpointError, quote } from '../error.ts'
import { readSmallFile } from '../formats/file-kind.ts'
import { isRecord, parseObject } from '../formats/json.ts'
import { LIMITS, readHeader, type SafetensorsFile, type TensorInfo } from '../formats/safetensors.ts'

/** Limits on JSON files other than headers; the index of SD3.5's largest network has some 90 kB. */
const JSON_LIMITS = { bytes: 32_000_000, depth: 16, shards: 1000 } as const

/** Reads a JSON object of bounded size. Throws CheckpointError. */
export async function readJsonObject(file: string): Promise<Record<string, unknown>> {
  const bytes = await readSmallFile(file, JSON_LIMITS.bytes)
  return parseObject(file, bytes, { depth: JSON_LIMITS.depth, commas: LIMITS.tensors })
}

/** The shards that an index lists. Throws CheckpointError. */
export async function shardsOf(indexFile: string): Promise<ReadonlySet<string>> {
  return new Set(parseWeightMap(indexFile, (await readJsonObject(indexFile)).weight_map).values())
}

/** Reads the headers of all shards without an index. Throws CheckpointError if two have one tensor. */
export async function readShards(files: readonly string[]): Promise<SafetensorsFile> {
  const tensors = new Map<string, TensorInfo>()
  let bytes = 0
  for (const file of files) {
    const header = await readHeader(file)
    bytes += header.bytes
    for (const [name, info] of header.tensors) {
      if (tensors.has(name)) throw new CheckpointError(file, `tensor ${quote(name)} is in another shard as well`)
      tensors.set(name, info)
    }
  }
  return { file: files[0]!, tensors, metadata: new Map(), bytes }
}

/**
 * Reads the header of every shard in an index. The shards must be beside the index and contain exactly the tensors that it lists for them.
 * Throws CheckpointError.
 */
export async function readSharded(indexFile: string): Promise<SafetensorsFile> {
  const shardOf = parseWeightMap(indexFile, (await readJsonObject(indexFile)).weight_map)
  const tensors = new Map<string, TensorInfo>()
  let bytes = 0
  for (const shard of new Set(shardOf.values())) {
    const header = await readHeader(path.join(path.dirname(indexFile), shard))
    bytes += header.bytes
    for (const [name, info] of header.tensors) {
      if (shardOf.get(name) !== shard) {
        throw new CheckpointError(
          header.file,
          `tensor ${quote(name)} is not listed for this shard in ${path.basename(indexFile)}`,
        )
      }
      tensors.set(name, info)
    }
  }
  for (const [name, shard] of shardOf) {
    if (!tensors.has(name))
      throw new CheckpointError(indexFile, `tensor ${quote(name)} is not in its shard ${quote(shard)}`)
  }
  return { file: indexFile, tensors, metadata: new Map(), bytes }
}

function parseWeightMap(indexFile: string, weightMap: unknown): Map<string, string> {
  if (!isRecord(weightMap)) throw new CheckpointError(indexFile, 'weight_map is not an object')
  const shardOf = new Map(
    Object.entries(weightMap).map(([name, shard]) => {
      if (typeof shard === 'string' && isFileName(shard)) return [name, shard]
      const given = typeof shard === 'string' ? quote(shard) : typeof shard
      throw new CheckpointError(
        indexFile,
        `tensor ${quote(name)}: its shard must be a .safetensors file beside the index, not ${given}`,
      )
    }),
  )
  const shards = new Set(shardOf.values()).size
  if (shards === 0) throw new CheckpointError(indexFile, 'weight_map is empty')
  if (shards > JSON_LIMITS.shards)
    throw new CheckpointError(indexFile, `${shards} shards; the limit is ${JSON_LIMITS.shards}`)
  return shardOf
}

function isFileName(name: string): boolean {
  return /^[^/\\\0]{1,255}$/.test(name) && !name.startsWith('.') && /\.safetensors$/i.test(name)
}
