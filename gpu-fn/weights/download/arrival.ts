// The download state of each file of a package, in shared memory for waits in any thread.
import type { Package } from '../../manifest.ts'
import { PackageError } from '../packages.ts'

/** The state of each file, in the order of the manifest. */
export type Arrival = NonNullable<Package['arrival']>

const STATE = { pending: 0, arrived: 1, failed: 2 } as const

export const createArrival = ({ files }: Pick<Package['manifest'], 'files'>): Arrival =>
  new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT * Object.keys(files).length))

export const hasArrived = (arrival: Arrival, file: number): boolean => Atomics.load(arrival, file) === STATE.arrived

/** Marks a file as complete and verified. */
export function setArrived(arrival: Arrival, file: number): void {
  Atomics.store(arrival, file, STATE.arrived)
  Atomics.notify(arrival, file)
}

/** Marks all missing files as failed. */
export function endArrival(arrival: Arrival): void {
  for (const file of arrival.keys()) {
    Atomics.compareExchange(arrival, file, STATE.pending, STATE.failed)
    Atomics.notify(arrival, file)
  }
}

/** Waits for the files selected by `isNeeded`. Throws PackageError after a failed download of one of them. */
export async function waitForFiles(
  { directory, manifest, arrival }: Package,
  isNeeded: (name: string) => boolean,
): Promise<void> {
  if (!arrival) return
  for (const [file, name] of Object.keys(manifest.files).entries()) {
    if (!isNeeded(name)) continue
    await Atomics.waitAsync(arrival, file, STATE.pending).value
    if (!hasArrived(arrival, file)) throw new PackageError(`${directory}: ${name} was not downloaded`)
  }
}
