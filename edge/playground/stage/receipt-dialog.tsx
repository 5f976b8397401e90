import { useEffect, useState } from 'preact/hooks'
import { createFileName } from '../api/format.ts'
import { isProblem } from '../api/http.ts'
import type { Run } from '../state/history.ts'
import { announce } from '../state/live.ts'
import { Button } from '../ui/controls.tsx'
import { Dialog } from '../ui/dialog.tsx'
import { Icon } from '../ui/icons.tsx'
import { ErrorNote } from '../ui/note.tsx'
import { saveBlob } from '../ui/save.ts'
import type { VerifiedReceipt } from './receipt.ts'

type Verification = VerifiedReceipt & { index: number }

function Checks({ checks }: Pick<VerifiedReceipt, 'checks'>) {
  const failed = checks.filter(({ passed }) => !passed).length
  return (
    <>
      <p class={`verdict ${failed === 0 ? 'ok' : 'danger'}`}>
        <Icon name={failed === 0 ? 'check' : 'warning'} />
        {failed === 0 ? 'The receipt is valid: this deployment signed this file.' : 'The receipt is not valid.'}
      </p>
      <ul class="checks">
        {checks.map(({ name, passed, detail }) => (
          <li key={name} class={passed ? 'ok' : 'danger'}>
            <Icon name={passed ? 'check' : 'cancel'} />
            <strong>{name}</strong>
            <span>{detail}</span>
          </li>
        ))}
      </ul>
    </>
  )
}

export function ReceiptDialog({ run, onClose }: { run: Run; onClose: () => void }) {
  const [found, setFound] = useState<Verification | null>(null)
  const [problem, setProblem] = useState<string | null>(null)
  const [index, setIndex] = useState(0)
  useEffect(() => {
    const verify = async () => {
      const { verifyImage } = await import('./receipt.ts')
      setFound({ ...(await verifyImage(run, index)), index })
      announce('The receipt was checked.')
    }
    verify().catch((error: unknown) => setProblem(isProblem(error) ? error.message : String(error)))
  }, [run, index])

  const image = run.images[index]!
  const name = createFileName(image.seed, image.content_type)
  const receiptName = name.replace(/\.\w+$/, '.receipt')
  const save = () => {
    saveBlob(new Blob([found!.bytes], { type: image.content_type }), name)
    saveBlob(new Blob([found!.receipt], { type: 'application/jose' }), receiptName)
  }
  return (
    <Dialog title="Receipt" onClose={onClose}>
      <p class="hint">
        A signed statement of how this image was made. It was checked here, in the page, against the public keys of the
        deployment.
      </p>
      {run.images.length > 1 && (
        <div class="buttons">
          {run.images.map(({ seed }, k) => (
            <Button key={seed} isPressed={k === index} onClick={() => setIndex(k)}>
              Image {k + 1}
            </Button>
          ))}
        </div>
      )}
      {problem !== null && <ErrorNote error={{ message: problem, code: 'unknown', requestId: null }} />}
      {!found && problem === null && <p class="muted">Checking …</p>}
      {found && <Checks checks={found.checks} />}
      <p class="hint">
        Elsewhere:{' '}
        <code>{`npm run verify -- ${name} ${receiptName} --jwks ${location.origin}/.well-known/jwks.json`}</code>
      </p>
      <footer>
        <Button icon="download" kind="primary" isDisabled={!found?.receipt} onClick={save}>
          Download with receipt
        </Button>
      </footer>
    </Dialog>
  )
}
