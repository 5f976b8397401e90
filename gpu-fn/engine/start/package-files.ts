// The files of packages: their downloads, their verification, and reading ahead.
import type { Package } from '../../manifest.ts'
import type { FetchedPackage } from '../../weights/cache.ts'
import { endArrival } from '../../weights/download/arrival.ts'
import type { Verifier } from '../../weights/verification.ts'
import type { Watch } from '../watchdog.ts'
import { type Part, timePart } from './parts.ts'
import { readAhead } from './read-ahead.ts'

const DOWNLOAD_PROGRESS_MS = 1_000

/** A package whose files are verified and read before it loads. `onFile` is called for each verified file. */
type FirstPackage = { digest: string; reading: AbortController; verified: Promise<void>; onFile: () => void }

export class PackageFiles {
  readonly #verifier: Verifier
  readonly #parts: Part[]
  /** Downloads of this process by package digest. */
  readonly #downloads = new Map<string, { package: Package; complete: Promise<unknown> }>()
  /** The first package to load, until it is open. */
  #first: FirstPackage | undefined

  /** `parts` receives the durations of downloads and verifications. */
  constructor(verifier: Verifier, parts: Part[]) {
    this.#verifier = verifier
    this.#parts = parts
  }

  /** Records the download of a package, if it is incomplete. */
  track({ package: pkg, complete }: FetchedPackage): void {
    if (!pkg.arrival) return
    const { model, tier } = pkg.manifest
    const download = timePart(this.#parts, `download of ${model}:${tier}`, () => complete)
    // Awaited when the package loads.
    download.catch(() => {})
    this.#downloads.set(pkg.digest, { package: pkg, complete: download })
  }

  /** Starts reading and verifying the files of the first package to load, unless it is incomplete. */
  begin(pkg: Package): void {
    if (pkg.arrival) return
    const onFile = () => first.onFile()
    const first: FirstPackage = {
      ...{ digest: pkg.digest, reading: new AbortController(), onFile() {} },
      verified: timePart(this.#parts, 'verification', () => this.#verifier.verify(pkg, onFile)),
    }
    // Awaited when the package loads.
    first.verified.catch(() => {})
    this.#first = first
    void readAhead(pkg, first.reading.signal)
  }

  /** Waits for the download of a package, and verifies its remaining files. Throws the errors of both. */
  async verify(pkg: Package, { progress }: Watch): Promise<void> {
    // The duration of a download has no limit.
    const timer = setInterval(progress, DOWNLOAD_PROGRESS_MS)
    try {
      await this.#downloads.get(pkg.digest)?.complete
    } finally {
      clearInterval(timer)
    }
    if (this.#first?.digest !== pkg.digest)
      return timePart(this.#parts, 'verification', () => this.#verifier.verify(pkg, progress))
    this.#first.onFile = progress
    return this.#first.verified
  }

  /** Reads the files of a package ahead, except during such a read, and after a download by this process. */
  readAhead(pkg: Package, signal: AbortSignal): void {
    if (this.#first?.digest !== pkg.digest && !pkg.arrival) void readAhead(pkg, signal)
  }

  /** Ends the reading of the first package's files. */
  end(): void {
    this.#first?.reading.abort()
    this.#first = undefined
  }

  /** Resolves when all downloads are complete. Throws the error of a download. */
  async waitForDownloads(): Promise<void> {
    for (const { complete } of this.#downloads.values()) await complete
  }

  /** Ends all waits for files. */
  stop(): void {
    this.end()
    for (const { package: pkg } of this.#downloads.values()) endArrival(pkg.arrival!)
  }
}
