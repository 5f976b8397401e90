// The report of `npm run bench -- repeats`, and its criteria.
import type { Growth } from '../hostile/memory.ts'
import { printMemory } from '../schedule/report.ts'
import type { Unequal } from './images.ts'
import type { LoadResult, Tally } from './load.ts'
import type { Distinct } from './requests.ts'

/** `errors`: error messages from the GPU function's log. */
export type Repeats = LoadResult & { requests: readonly Distinct[]; memory: Growth[]; errors: string[] }

/** Maximum number of printed lines per category. */
const MAX_LINES = 20

const formatCounts = (counts: Readonly<Record<string, number>>) =>
  Object.entries(counts)
    .map(([name, count]) => `${count} ${name}`)
    .join(', ')

const describe = ({ width, height, prompt, negative_prompt: _, loras = [], ...others }: Distinct) =>
  JSON.stringify({
    ...{ size: `${width}x${height}`, ...others, prompt: prompt.slice(0, 40) },
    ...(loras.length > 0 && { loras: loras.map(({ id, scale }) => `${id} ${scale}`) }),
  })

function describeUnequal({ job, seconds, previous, psnr, share }: Unequal): string {
  const difference = `PSNR ${psnr.toFixed(1)} dB, ${(100 * share).toFixed(2)} % of the values`
  return `${job} after ${seconds.toFixed(1)} s (before it: ${previous}): ${difference}`
}

function printTally(name: string, { ended, seconds }: Tally): void {
  const rate = (ended.succeeded / seconds).toFixed(2)
  console.log(`${name}: ${formatCounts(ended)} in ${seconds.toFixed(0)} s, ${rate} images per second`)
}

function printUnequal({ images, requests }: Repeats): void {
  const differing = [...new Set(images.unequal.map(({ request }) => request))]
  for (const request of differing.slice(0, MAX_LINES)) {
    const kinds = images.kindsOf(request)
    console.log(`request ${request}: ${kinds.length} different images, made ${kinds.join(', ')} times`)
    console.log(`  ${describe(requests[request]!)}`)
    const own = images.unequal.filter((each) => each.request === request)
    for (const each of own.slice(0, MAX_LINES)) console.log(`  ${describeUnequal(each)}`)
  }
}

function printLines(name: string, lines: readonly string[]): void {
  for (const line of lines.slice(0, MAX_LINES)) console.log(`${name}: ${line}`)
  if (lines.length > MAX_LINES) console.log(`${name}: ${lines.length - MAX_LINES} more`)
}

/** Whether there are repeats, all of them are identical, and no job failed. */
export const isReproducible = ({ images, failures, alone }: Pick<Repeats, 'images' | 'failures' | 'alone'>): boolean =>
  images.equal > 0 && images.unequal.length === 0 && failures.length === 0 && alone.failures.length === 0

/**
 * Prints counts, differing images, errors and memory use. Sets exit code 1 if the results are not reproducible or the log contains an
 * error.
 */
export function printReport(repeats: Repeats): void {
  const { images, alone, failures, errors, memory } = repeats
  printTally('under load', repeats)
  printTally('each request alone', alone)
  const [equal, unequal] = [images.equal - alone.equal, images.unequal.length - alone.unequal]
  console.log(
    `repeats under load: ${equal} equal, ${unequal} unequal; alone: ${alone.equal} equal, ${alone.unequal} unequal`,
  )
  printUnequal(repeats)
  printLines('failed', [...failures, ...alone.failures])
  printLines("error in the GPU function's log", errors)
  if (!isReproducible(repeats) || errors.length > 0) process.exitCode = 1
  printMemory(memory)
}
