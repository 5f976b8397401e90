// The runs of this browser, newest first, in IndexedDB. Pictures stay on the server; a thumbnail is kept of each.
import { signal } from '@preact/signals'
import { get, set } from 'idb-keyval'
import type { Fields, JobView } from '../api/types.ts'

export type RunState = 'sending' | JobView['state']
type RunError = { message: string; code: string; requestId: string | null }
export type RunImage = {
  seed: number | string
  /** A signed link as a path; null once it has expired. */
  url: string | null
  sha256: string
  content_type: string
  expires_at: number
  /** A data URL. */
  thumbnail: string | null
}
/** A run of the form: one job. `id` is its Idempotency-Key. Times are Unix milliseconds. */
export type Run = {
  id: string
  created: number
  /** Runs of one comparison share it. */
  pair: string | null
  fields: Fields
  job: string | null
  state: RunState
  decision: Pick<JobView, 'route' | 'model' | 'tier' | 'steps' | 'guidance_scale' | 'reason'> | null
  price: number | null
  seconds: number | null
  warnings: string[]
  error: RunError | null
  images: RunImage[]
  /** The time of the links' signatures. */
  linked: number
}

const MAX_RUNS = 200
const STORED = 'octet.runs'
const FINAL: ReadonlySet<RunState> = new Set(['succeeded', 'failed', 'canceled'])

export const isFinal = ({ state }: Pick<Run, 'state'>) => FINAL.has(state)
export const runs = signal<Run[]>([])
export const findRun = (id: string | null) => runs.value.find((run) => run.id === id) ?? null

let saving: ReturnType<typeof setTimeout> | undefined
function saveSoon(): void {
  clearTimeout(saving)
  // Private windows may have no IndexedDB; the runs then last as long as the page.
  saving = setTimeout(() => void save().catch(() => {}), 150)
}
const save = () => set(STORED, runs.peek())

/** Adds runs and stores them before they are sent. */
export async function addRuns(added: Run[]): Promise<void> {
  runs.value = [...added, ...runs.peek()].slice(0, MAX_RUNS)
  await save().catch(() => {})
}

export function patchRun(id: string, change: Partial<Run>): void {
  runs.value = runs.peek().map((run) => (run.id === id ? { ...run, ...change } : run))
  saveSoon()
}

export function removeRuns(ids: ReadonlySet<string>): void {
  runs.value = runs.peek().filter(({ id }) => !ids.has(id))
  saveSoon()
}

export async function loadRuns(): Promise<void> {
  const stored = await get<Run[]>(STORED).catch(() => undefined)
  if (stored) runs.value = [...runs.peek(), ...stored.filter(({ id }) => !runs.peek().some((run) => run.id === id))]
}

const THUMBNAIL = 320

/** A small WebP of an image file as a data URL; null if the browser cannot decode it. */
export async function thumbnailOf(file: Blob): Promise<string | null> {
  try {
    const bitmap = await createImageBitmap(file)
    const scale = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height))
    const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale))
    canvas.getContext('2d')!.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
    const blob = await canvas.convertToBlob({ type: 'image/webp', quality: 0.8 })
    return await new Promise((resolve) => {
      const reader = new FileReader()
      reader.onload = () => resolve(reader.result as string)
      reader.onerror = () => resolve(null)
      reader.readAsDataURL(blob)
    })
  } catch {
    return null
  }
}
