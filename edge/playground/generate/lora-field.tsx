import type { LoraChoice } from '../api/types.ts'
import { change, draft, LORAS_MAX, problemOf, routesOf } from '../state/draft.ts'
import { findLoras, loras } from '../state/models.ts'
import { Button, FieldError } from '../ui/controls.tsx'

/** The range of the slider, which is extended for a strength outside of it, for example from a link. */
const [LEAST, MOST] = [0, 2]

function Chosen({ choice, others }: { choice: LoraChoice; others: LoraChoice[] }) {
  const { id, scale } = choice
  const words = loras.value.find((lora) => lora.id === id)?.trigger_words ?? []
  const range = { min: Math.min(LEAST, scale), max: Math.max(MOST, scale), step: 0.05 }
  return (
    <li>
      <label for={`lora-${id}`}>
        <span>{id}</span> <output>{scale.toFixed(2)}</output>
      </label>
      <Button icon="trash" kind="quiet" label={`Remove ${id}`} onClick={() => change({ loras: others })} />
      <input
        id={`lora-${id}`}
        type="range"
        {...range}
        value={scale}
        aria-label={`Scale of ${id}`}
        onInput={(event) => {
          const changed = { id, scale: Number(event.currentTarget.value) }
          change({ loras: draft.value.loras.map((each) => (each.id === id ? changed : each)) })
        }}
      />
      {words.length > 0 && <p class="hint">Responds to: {words.join(', ')}</p>}
    </li>
  )
}

/** The adapters of the request with their strengths. Not shown if the server has no adapters. */
export function LoraField() {
  const { loras: chosen, route } = draft.value
  const offered = findLoras(routesOf(route)).filter(({ id }) => !chosen.some((each) => each.id === id))
  if (loras.value.length === 0 && chosen.length === 0) return null
  return (
    <div class="field loras">
      <label for="lora">LoRA</label>
      {chosen.length > 0 && (
        <ul>
          {chosen.map((choice) => (
            <Chosen key={choice.id} choice={choice} others={chosen.filter((each) => each !== choice)} />
          ))}
        </ul>
      )}
      <select
        id="lora"
        value=""
        disabled={offered.length === 0 || chosen.length === LORAS_MAX}
        aria-invalid={problemOf('loras') !== null}
        aria-describedby="lora-error"
        onChange={(event) => {
          const added = offered.find(({ id }) => id === event.currentTarget.value)
          if (added) change({ loras: [...chosen, { id: added.id, scale: added.scale }] })
        }}
      >
        <option value="">
          {offered.length === 0 ? 'No others for this route' : chosen.length === 0 ? 'None' : 'Add another'}
        </option>
        {offered.map(({ id }) => (
          <option key={id} value={id}>
            {id}
          </option>
        ))}
      </select>
      <FieldError id="lora-error" text={problemOf('loras')} />
    </div>
  )
}
