import { change, draft, problemOf } from '../state/draft.ts'
import { quote } from '../state/quote.ts'
import { Choice, FieldError } from '../ui/controls.tsx'

const FORMATS = [
  { value: 'png', text: 'PNG' },
  { value: 'jpeg', text: 'JPEG' },
  { value: 'webp', text: 'WebP' },
] as const
const CACHES = [
  { value: 'off', text: 'Off' },
  { value: 'fast', text: 'Fast' },
] as const
const COUNTS = ['1', '2', '3', '4'].map((value) => ({ value, text: value }))

type NumberProps = {
  id: string
  label: string
  value: string
  usual: number | undefined
  max: number
  step: number
  params: string[]
  onInput: (value: string) => void
}

function NumberField({ id, label, value, usual, max, step, params, onInput }: NumberProps) {
  const problem = problemOf(...params)
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        class="figures"
        type="number"
        inputMode="decimal"
        {...{ min: 0, max, step, value }}
        placeholder={usual === undefined ? 'default' : `${usual}`}
        aria-invalid={problem !== null}
        onInput={(event) => onInput(event.currentTarget.value)}
      />
      <FieldError id={`${id}-error`} text={problem} />
    </div>
  )
}

/** The fields that most runs leave at their defaults. */
export function MoreFields() {
  const { negative, count, steps, guidance, format, cache } = draft.value
  const [first] = quote.value.quotes
  return (
    <details class="more">
      <summary>More settings</summary>
      <div class="fields">
        <div class="field">
          <label for="negative">Not in the image</label>
          <input
            id="negative"
            type="text"
            value={negative}
            maxLength={10_000}
            aria-describedby="negative-hint"
            onInput={(event) => change({ negative: event.currentTarget.value })}
          />
          <p class="hint" id="negative-hint">
            Works through guidance, so it needs the full route.
          </p>
          <FieldError id="negative-error" text={problemOf('negative_prompt')} />
        </div>
        <div class="halves">
          <NumberField
            {...{
              id: 'steps',
              label: 'Steps',
              value: steps,
              usual: first?.steps,
              max: 200,
              step: 1,
              params: ['steps'],
            }}
            onInput={(value) => change({ steps: value })}
          />
          <NumberField
            {...{
              id: 'guidance',
              label: 'Guidance',
              value: guidance,
              usual: first?.guidance_scale,
              max: 30,
              step: 0.5,
            }}
            params={['guidance_scale']}
            onInput={(value) => change({ guidance: value })}
          />
        </div>
        <div class="halves">
          <Choice
            legend="Images"
            name="count"
            options={COUNTS}
            value={String(count)}
            onChange={(value) => change({ count: Number(value) })}
          />
          <Choice
            legend="Format"
            name="format"
            options={FORMATS}
            value={format}
            onChange={(value) => change({ format: value })}
          />
        </div>
        <div class="field">
          <Choice
            legend="Step caching"
            name="cache"
            options={CACHES}
            value={cache}
            onChange={(value) => change({ cache: value })}
          />
          <p class="hint">Skips four of ten steps of the full route, for a slightly different image.</p>
          <FieldError id="cache-error" text={problemOf('cache')} />
        </div>
      </div>
    </details>
  )
}
