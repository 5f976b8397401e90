import { findRun, isFinal, type Run, runs } from '../state/history.ts'
import { compared, selected } from '../state/run.ts'
import { Actions } from './actions.tsx'
import { Compare } from './compare.tsx'
import { Examples } from './examples.tsx'
import { Facts } from './facts.tsx'
import { Frame } from './frame.tsx'
import { RunState } from './run-state.tsx'

function Single({ run }: { run: Run }) {
  return (
    <>
      <Frame run={run} />
      <RunState run={run} />
      {run.state === 'succeeded' && <Actions run={run} />}
      <Facts run={run} />
    </>
  )
}

/** Two runs: a slider once both have images, two frames before. The turbo run comes first. */
function Pair({ first, second }: { first: Run; second: Run }) {
  const [a, b] = first.decision?.route === 'full' || first.fields.route === 'full' ? [second, first] : [first, second]
  const isDone = [a, b].every((run) => run.state === 'succeeded' && run.images[0]?.url)
  return (
    <>
      {isDone ? (
        <Compare first={a} second={b} />
      ) : (
        <div class="pair">
          {[a, b].map((run) => (
            <div key={run.id}>
              <Frame run={run} />
              <RunState run={run} />
            </div>
          ))}
        </div>
      )}
      {isFinal(first) && first.state === 'succeeded' && <Actions run={first} />}
      <Facts run={first} />
    </>
  )
}

export function Stage() {
  // Read here, so that a change of any run renders the stage again.
  runs.value
  const [run, other] = [findRun(selected.value), findRun(compared.value)]
  return (
    <section class="stage" aria-label="Result" tabIndex={-1}>
      {run && other && <Pair first={run} second={other} />}
      {run && !other && <Single run={run} />}
      {!run && <Examples />}
    </section>
  )
}
