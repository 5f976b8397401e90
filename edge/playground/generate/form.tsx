import { useLayoutEffect, useRef } from 'preact/hooks'
import { formatSize } from '../api/format.ts'
import { credential } from '../api/session.ts'
import { change, draft, newSeed, problemOf, type RouteChoice, SEED_MAX } from '../state/draft.ts'
import { runs } from '../state/history.ts'
import { computeSize, RATIOS } from '../state/models.ts'
import { prewarm } from '../state/quote.ts'
import { Button, Choice, FieldError } from '../ui/controls.tsx'
import { InputField } from './input-field.tsx'
import { KeyForm } from './key-dialog.tsx'
import { LoraField } from './lora-field.tsx'
import { MoreFields } from './more-fields.tsx'
import { RunBar } from './run-bar.tsx'

/** Replaces the prompt by an earlier or a later one of the history. */
function recallPrompt(step: 1 | -1): void {
  const prompts = [...new Set(runs.value.map(({ fields }) => fields.prompt))]
  const at = prompts.indexOf(draft.value.prompt) + step
  const prompt = prompts[Math.max(0, Math.min(prompts.length - 1, at))]
  if (prompt !== undefined) change({ prompt })
}

function PromptField() {
  const element = useRef<HTMLTextAreaElement>(null)
  const { prompt } = draft.value
  const problem = problemOf('prompt')
  useLayoutEffect(() => {
    const { current } = element
    if (!current) return
    current.style.height = 'auto'
    current.style.height = `${current.scrollHeight + 2}px`
  }, [prompt])
  return (
    <div class="field">
      <label for="prompt">Prompt</label>
      <textarea
        ref={element}
        id="prompt"
        rows={3}
        maxLength={10_000}
        placeholder="A red heart on a blue background"
        value={prompt}
        aria-invalid={problem !== null}
        aria-describedby="prompt-error"
        aria-keyshortcuts="Control+Enter"
        onFocus={prewarm}
        onInput={(event) => change({ prompt: event.currentTarget.value })}
        onKeyDown={(event) => {
          if (!event.altKey || (event.key !== 'ArrowUp' && event.key !== 'ArrowDown')) return
          event.preventDefault()
          recallPrompt(event.key === 'ArrowUp' ? 1 : -1)
        }}
      />
      <FieldError id="prompt-error" text={problem} />
    </div>
  )
}

function RatioShape({ ratio }: { ratio: string }) {
  const [wide, high] = ratio.split(':').map(Number) as [number, number]
  const scale = 14 / Math.max(wide, high)
  const [width, height] = [wide * scale, high * scale]
  return (
    <svg class="ratio" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
      <rect x={8 - width / 2} y={8 - height / 2} width={width} height={height} rx="1" />
    </svg>
  )
}

function ShapeField() {
  const { ratio } = draft.value
  const options = RATIOS.map((value) => ({
    value: value as string,
    label: `${value}, ${formatSize(computeSize(value))}`,
    text: (
      <>
        <RatioShape ratio={value} />
        {value}
      </>
    ),
  }))
  return (
    <div class="field shape">
      <Choice
        legend="Shape"
        name="ratio"
        options={options}
        value={ratio}
        onChange={(value) => change({ ratio: value })}
      />
      <span class="beside-legend">{computeSize(ratio) === 'auto' ? '' : formatSize(computeSize(ratio))}</span>
      <FieldError id="size-error" text={problemOf('size')} />
    </div>
  )
}

const ROUTES: { value: RouteChoice; text: string; label: string }[] = [
  { value: 'auto', text: 'Auto', label: 'Auto: chosen by the prompt' },
  { value: 'turbo', text: 'Turbo', label: 'Turbo: few steps' },
  { value: 'full', text: 'Full', label: 'Full: all steps, with guidance' },
  { value: 'both', text: 'Both', label: 'Both: turbo and full at one seed, to compare' },
]

function SeedField() {
  const { seed, isLocked } = draft.value
  return (
    <div class="field">
      <label for="seed">Seed</label>
      <div class="joined">
        <input
          id="seed"
          class="figures"
          type="number"
          inputMode="numeric"
          min={0}
          max={SEED_MAX}
          value={seed}
          aria-invalid={problemOf('seed') !== null}
          onInput={(event) =>
            change({ seed: Math.min(SEED_MAX, Math.max(0, Number(event.currentTarget.value) || 0)), isLocked: true })
          }
        />
        <Button icon="dice" label="New seed" onClick={() => change({ seed: newSeed() })} />
        <Button
          icon={isLocked ? 'lock' : 'unlock'}
          label="Keep the seed for the next run"
          isPressed={isLocked}
          onClick={() => change({ isLocked: !isLocked })}
        />
      </div>
      <FieldError id="seed-error" text={problemOf('seed')} />
    </div>
  )
}

export function Form() {
  return (
    <section class="form" aria-label="Image settings">
      <div class="fields">
        {!credential.value && (
          <div class="key-card">
            <h2>Paste a key to begin</h2>
            <KeyForm onDone={() => document.querySelector<HTMLElement>('#prompt')?.focus()} />
          </div>
        )}
        <PromptField />
        <ShapeField />
        <InputField />
        <div class="field">
          <Choice
            legend="Route"
            name="route"
            options={ROUTES}
            value={draft.value.route}
            onChange={(route) => change({ route })}
          />
          <FieldError id="route-error" text={problemOf('route', 'guidance_scale', 'model')} />
        </div>
        <LoraField />
        <SeedField />
        <MoreFields />
      </div>
      <RunBar />
    </section>
  )
}
