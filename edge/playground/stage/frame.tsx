import type { Run, RunImage } from '../state/history.ts'
import { liveOf } from '../state/live.ts'
import { Icon } from '../ui/icons.tsx'

/** The maximum enlargement of a small image. */
const ENLARGED = 2
const ALT_CHARACTERS = 150

export const altOf = ({ fields }: Run) => `Generated: ${fields.prompt.slice(0, ALT_CHARACTERS)}`

/** Width and height of a run's images. */
export function sidesOf({ fields }: Run): [number, number] {
  const [width, height] = fields.size.split('x').map(Number)
  return width && height ? [width, height] : [1, 1]
}

/** The place of an image, with its proportions from the start, so that nothing moves when it arrives. */
export const createFrameStyle = (run: Run) => {
  const [width, height] = sidesOf(run)
  return { '--ratio': `${width} / ${height}`, '--most': `${width * ENLARGED}px`, '--tall': `${width / height}` }
}

const Gone = ({ image }: { image: RunImage }) => (
  <>
    {image.thumbnail && <img class="picture faded" src={image.thumbnail} alt="" />}
    <p class="frame-note">This picture is no longer stored. The same seed and settings make it again.</p>
  </>
)

function Picture({ run, image }: { run: Run; image: RunImage }) {
  if (image.url === null) return <Gone image={image} />
  const [width, height] = sidesOf(run)
  return <img class="picture" src={image.url} alt={altOf(run)} width={width} height={height} />
}

export function Frame({ run }: { run: Run }) {
  const { preview } = liveOf(run.id)
  if (run.images.length > 1)
    return (
      <ul class="frames">
        {run.images.map((image) => (
          <li key={image.seed} class="frame" style={createFrameStyle(run)}>
            <Picture run={run} image={image} />
          </li>
        ))}
      </ul>
    )
  const [image] = run.images
  return (
    <div class="frame" style={createFrameStyle(run)}>
      {image && <Picture run={run} image={image} />}
      {!image && preview && <img class="picture preview" src={preview} alt="Preview of the run in progress" />}
      {run.state === 'failed' && <Icon name="warning" />}
      {run.state === 'canceled' && <p class="frame-note">Canceled</p>}
    </div>
  )
}
