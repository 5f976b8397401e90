// The published SD3.5 checkpoints without their weights: real headers, files of the real size that take no space on the disk.
import { mkdir, open, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { type Layout, type PublishedModel, readHeaders } from '../../../infra/checkpoints/published.ts'

/**
 * Writes the checkpoint `name` into `directory` with zeros, in holes, for weights. Returns the paths to compile: the directory
 * for the diffusers layout; for single files the checkpoint and its three text encoders.
 */
export async function writeSparseCheckpoint(
  directory: string,
  name: PublishedModel,
  layout: Layout,
): Promise<string[]> {
  const files = await readHeaders(name, layout)
  for (const [file, content] of Object.entries(files)) {
    const target = path.join(directory, file)
    await mkdir(path.dirname(target), { recursive: true })
    if (file.endsWith('.json')) await writeFile(target, JSON.stringify(content))
    else await writeSparse(target, content)
  }
  return layout === 'diffusers' ? [directory] : Object.keys(files).map((file) => path.join(directory, file))
}

async function writeSparse(file: string, header: Record<string, unknown>): Promise<void> {
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  await using handle = await open(file, 'w')
  await handle.write(Buffer.concat([length, json]))
  await handle.truncate(8 + json.length + sumDataBytes(header))
}

function sumDataBytes(header: Record<string, unknown>): number {
  const entries = Object.entries(header).filter(([name]) => name !== '__metadata__')
  return Math.max(...entries.map(([, entry]) => (entry as { data_offsets: [number, number] }).data_offsets[1]))
}
