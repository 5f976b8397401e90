import { Button } from '../ui/controls.tsx'
import { Dialog } from '../ui/dialog.tsx'

type Props = { title: string; text: string; verb: string; onConfirm: () => void; onClose: () => void }

/** Asks before an action that cannot be undone. */
export function ConfirmDialog({ title, text, verb, onConfirm, onClose }: Props) {
  const confirm = () => {
    onConfirm()
    onClose()
  }
  return (
    <Dialog title={title} onClose={onClose}>
      <p>{text}</p>
      <footer>
        <Button onClick={onClose}>Keep it</Button>
        <Button kind="danger" icon="trash" onClick={confirm}>
          {verb}
        </Button>
      </footer>
    </Dialog>
  )
}
