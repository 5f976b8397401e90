// Progress of a long transfer: a bar on a terminal, a line per tenth in a log.
import { MultiBar, Presets } from 'cli-progress'
import { escapeText } from '../contract.ts'

export function showProgress() {
  const format = '{label} |{bar}| {percentage}% · {rate} MB/s · {left} s left'
  const bars = new MultiBar(
    { format, stream: process.stderr, hideCursor: true, clearOnComplete: true },
    Presets.shades_classic,
  )
  const started = performance.now()
  let bar: ReturnType<typeof bars.create> | undefined
  let tenth = 0
  return {
    update(done: number, total: number, name: string) {
      const label = escapeText(name)
      const seconds = (performance.now() - started) / 1000
      const rate = (done / 1e6 / seconds).toFixed(0)
      const left = done > 0 ? (((total - done) / done) * seconds).toFixed(0) : '?'
      if (process.stderr.isTTY) {
        bar ??= bars.create(total, 0)
        bar.update(done, { label: label.slice(-40).padEnd(12), rate, left })
      } else if (Math.floor((done / total) * 10) > tenth) {
        tenth = Math.floor((done / total) * 10)
        console.error(`${tenth * 10}% · ${rate} MB/s · ${left} s left · ${label}`)
      }
    },
    stop: () => bars.stop(),
  }
}
