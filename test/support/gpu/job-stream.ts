// Helpers that read a job's event stream, completely or in part.
import type { JobEvent } from '../../../gpu-fn/contract.ts'
import { readJobStream, type StreamEntry } from '../../../infra/system/job-stream.ts'

/** All entries of a job's stream. */
export async function readWholeStream(response: Response): Promise<StreamEntry[]> {
  const entries: StreamEntry[] = []
  for await (const entry of readJobStream(response.body!)) entries.push(entry)
  return entries
}

/** Reads until an entry of this type, then closes the connection. */
export async function readUntil(response: Response, type: JobEvent['type']): Promise<StreamEntry[]> {
  const entries: StreamEntry[] = []
  for await (const entry of readJobStream(response.body!)) {
    entries.push(entry)
    if (entry.event.type === type) break
  }
  return entries
}

/** The types of the entries, in order and without heartbeats. */
export function typesOf(entries: readonly StreamEntry[]): string[] {
  return entries.map(({ event }) => event.type).filter((type) => type !== 'heartbeat')
}
