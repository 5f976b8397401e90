import { signal } from '@preact/signals'
import { useFields } from '../state/draft.ts'
import type { Run } from '../state/history.ts'
import { linkTo } from '../state/link.ts'
import { ratioOf } from '../state/models.ts'
import { compared, deleteRun, findCounterpart, toggleComparison } from '../state/run.ts'
import { Button, CopyButton } from '../ui/controls.tsx'
import { downloadImage } from '../ui/save.ts'
import { CodeDialog } from './code-dialog.tsx'
import { ReceiptDialog } from './receipt-dialog.tsx'

const openDialog = signal<'code' | 'receipt' | null>(null)

const compareWords = (run: Run) => (run.decision?.route === 'turbo' ? 'Compare with full' : 'Compare with turbo')

export function Actions({ run }: { run: Run }) {
  const isStored = run.images.some(({ url }) => url !== null)
  const isComparing = compared.value !== null
  return (
    <div class="actions" role="toolbar" aria-label="Actions for this image">
      <Button
        icon="download"
        shortcut="D"
        isDisabled={!isStored}
        onClick={() => void Promise.all(run.images.map(downloadImage))}
      >
        Download
      </Button>
      <Button icon="receipt" shortcut="V" isDisabled={!isStored} onClick={() => (openDialog.value = 'receipt')}>
        Receipt
      </Button>
      <Button icon="compare" shortcut="C" isPressed={isComparing} onClick={() => toggleComparison(run)}>
        {isComparing || findCounterpart(run) ? 'Compare' : compareWords(run)}
      </Button>
      <Button icon="code" onClick={() => (openDialog.value = 'code')}>
        Code
      </Button>
      <CopyButton icon="link" text={() => linkTo(run.fields)}>
        Link
      </CopyButton>
      <Button icon="reuse" shortcut="S" onClick={() => useFields(run.fields, ratioOf(run.fields.size))}>
        Use settings
      </Button>
      <Button icon="trash" label="Delete this run and its images" kind="quiet" onClick={() => void deleteRun(run)} />
      {openDialog.value === 'code' && <CodeDialog run={run} onClose={() => (openDialog.value = null)} />}
      {openDialog.value === 'receipt' && <ReceiptDialog run={run} onClose={() => (openDialog.value = null)} />}
    </div>
  )
}
