// The criteria of the report of `npm run bench -- repeats`, which set its exit code.
import { expect, onTestFinished, test, vi } from 'vitest'
import { Images } from '../../../../infra/bench/repeats/images.ts'
import { printReport, type Repeats } from '../../../../infra/bench/repeats/report.ts'

const FILE = Buffer.from('an image')
const tally = { ended: { succeeded: 2, canceled: 0, 'hung up': 0, failed: 0 }, failures: [], seconds: 1 }

/** Exit code and output of a report on two equal images, with these changes. */
async function report(changes: Partial<Repeats> = {}): Promise<{ code: typeof process.exitCode; output: string }> {
  const before = process.exitCode
  const print = vi.spyOn(console, 'log').mockImplementation(() => {})
  onTestFinished(() => {
    process.exitCode = before
    print.mockRestore()
  })
  const images = new Images()
  for (const job of ['a', 'b']) await images.add({ request: 0, job, seconds: 1, previous: 'no job', file: FILE })
  process.exitCode = 0
  const alone = { ...tally, equal: 1, unequal: 0 }
  printReport({ ...tally, images, alone, requests: [], memory: [], errors: [], ...changes })
  const code = process.exitCode
  process.exitCode = before
  return { code, output: print.mock.calls.flat().join('\n') }
}

test('equal images without failures and errors pass the report', async () => {
  expect((await report()).code).toBe(0)
})

test('an error in the log of the GPU function fails the report, even if all images are equal', async () => {
  const { code, output } = await report({ errors: ['a run failed: job-1: out of memory'] })
  expect(code).toBe(1)
  expect(output).toContain("error in the GPU function's log: a run failed: job-1: out of memory")
})

test('a failed job and a failed repetition fail the report', async () => {
  expect((await report({ failures: ['job-1, request 0: internal'] })).code).toBe(1)
  const alone = { ...tally, equal: 1, unequal: 0, failures: ['alone-0, request 0: internal'] }
  expect((await report({ alone })).code).toBe(1)
})
