import type { ComponentChildren } from 'preact'
import { formatMoney, formatSeconds, formatSize, formatTime, pluralize } from '../api/format.ts'
import type { Run } from '../state/history.ts'

const Row = ({ name, children }: { name: string; children: ComponentChildren }) => (
  <div>
    <dt>{name}</dt>
    <dd>{children}</dd>
  </div>
)

/** One line about a run, and all of its parameters. */
export function Facts({ run }: { run: Run }) {
  const { decision, fields, price, seconds, state } = run
  if (!decision) return null
  const line = [
    decision.model,
    pluralize(decision.steps, 'step'),
    `seed ${fields.seed}`,
    ...(state === 'succeeded' && seconds !== null ? [formatSeconds(seconds)] : []),
    ...(state === 'succeeded' && price !== null ? [formatMoney(price)] : []),
  ]
  return (
    <details class="facts">
      <summary>
        <span class="figures">{line.join(' · ')}</span>
      </summary>
      <dl>
        <Row name="Prompt">{fields.prompt}</Row>
        {fields.negative_prompt && <Row name="Not in the image">{fields.negative_prompt}</Row>}
        <Row name="Route">
          {decision.route}: {decision.reason}
        </Row>
        <Row name="Model">
          {decision.model}, {decision.tier}
        </Row>
        <Row name="Steps">
          {decision.steps}, guidance {decision.guidance_scale}
        </Row>
        {fields.loras?.map(({ id, scale }) => (
          <Row key={id} name="LoRA">
            {id}, scale {scale}
          </Row>
        ))}
        <Row name="Size">{formatSize(fields.size)}</Row>
        <Row name="Seed">
          <code>{fields.seed}</code>
        </Row>
        <Row name="Started">{formatTime(run.created)}</Row>
        {run.job && (
          <Row name="Job">
            <code>{run.job}</code>
          </Row>
        )}
        {run.warnings.map((warning) => (
          <Row key={warning} name="Note">
            {warning}
          </Row>
        ))}
      </dl>
    </details>
  )
}
