import { useState } from 'preact/hooks'
import { formatMoney, formatSeconds } from '../api/format.ts'
import type { Run } from '../state/history.ts'
import { Choice } from '../ui/controls.tsx'
import { altOf, createFrameStyle, sidesOf } from './frame.tsx'

const MODES = [
  { value: 'slider', text: 'Slider' },
  { value: 'beside', text: 'Side by side' },
] as const

function formatCaption({ decision, seconds, price }: Run): string {
  return [
    decision?.route === 'turbo' ? 'Turbo' : 'Full',
    ...(seconds === null ? [] : [formatSeconds(seconds)]),
    ...(price === null ? [] : [formatMoney(price)]),
  ].join(' · ')
}

/** Two images on top of each other. The range input, which covers them, moves the line at which one becomes the other. */
function Slider({ first, second }: { first: Run; second: Run }) {
  const [share, setShare] = useState(50)
  const [width, height] = sidesOf(first)
  const size = { width, height }
  return (
    <div class="frame compare" style={{ ...createFrameStyle(first), '--split': `${share}%` }}>
      <img class="picture" src={second.images[0]!.url!} alt={`${altOf(second)}, ${second.decision?.route}`} {...size} />
      <img
        class="picture over"
        src={first.images[0]!.url!}
        alt={`${altOf(first)}, ${first.decision?.route}`}
        {...size}
      />
      <span class="corner start">{formatCaption(first)}</span>
      <span class="corner end">{formatCaption(second)}</span>
      <span class="divider" aria-hidden="true" />
      <input
        type="range"
        min={0}
        max={100}
        value={share}
        aria-label={`Share of ${first.decision?.route} shown`}
        aria-valuetext={`${first.decision?.route} ${share} percent`}
        onInput={(event) => setShare(Number(event.currentTarget.value))}
      />
    </div>
  )
}

const Beside = ({ first, second }: { first: Run; second: Run }) => (
  <div class="pair">
    {[first, second].map((run) => (
      <figure key={run.id}>
        <div class="frame" style={createFrameStyle(run)}>
          <img class="picture" src={run.images[0]!.url!} alt={altOf(run)} />
        </div>
        <figcaption>{formatCaption(run)}</figcaption>
      </figure>
    ))}
  </div>
)

export function Compare({ first, second }: { first: Run; second: Run }) {
  const [mode, setMode] = useState<'slider' | 'beside'>('slider')
  return (
    <div class="comparison">
      {mode === 'slider' ? <Slider {...{ first, second }} /> : <Beside {...{ first, second }} />}
      <Choice legend="View" name="comparison" options={MODES} value={mode} onChange={setMode} />
    </div>
  )
}
