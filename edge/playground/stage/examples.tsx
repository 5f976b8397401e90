import { change, draft } from '../state/draft.ts'
import { models } from '../state/models.ts'

/** Prompts of `npm run pictures`, with the seeds of these pictures. */
const EXAMPLES = [
  { prompt: 'a red heart on a blue background', seed: 1, file: 'heart' },
  { prompt: 'three strawberries on a white background', seed: 2, file: 'strawberries' },
  { prompt: 'a cat left of a Christmas tree, in the snow', seed: 3, file: 'cat' },
  { prompt: 'a rocket in the night sky', seed: 4, file: 'rocket' },
  { prompt: 'an octopus in the sea', seed: 5, file: 'octopus' },
  { prompt: 'a sunflower on the grass', seed: 6, file: 'sunflower' },
]

function choose(prompt: string, seed: number): void {
  change({ prompt, seed, isLocked: true })
  document.querySelector<HTMLElement>('#prompt')?.focus()
}

/** The stage without a run. */
export function Examples() {
  const isNano = models.value.some(({ id }) => id === 'nano')
  return (
    <div class="examples">
      <header>
        <h1>Describe an image. See the price first.</h1>
        <p class="muted">
          {isNano
            ? 'This deployment serves nano, a small model that draws 359 objects and ignores other words. Start from one of its pictures:'
            : 'Start from one of these prompts, made by nano, the built-in model:'}
        </p>
      </header>
      <ul>
        {EXAMPLES.map(({ prompt, seed, file }) => (
          <li key={file}>
            <button type="button" aria-pressed={draft.value.prompt === prompt} onClick={() => choose(prompt, seed)}>
              <img src={`/examples/${file}.webp`} alt="" width={192} height={192} loading="lazy" />
              <span>{prompt}</span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  )
}
