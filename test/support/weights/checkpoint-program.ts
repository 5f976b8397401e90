// Program: downloads a checkpoint from a hub. `fill`: size in bytes of a file written during the download, to fill the disk.
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { downloadCheckpoint } from '../../../infra/weights/hub.ts'

const [directory, hubUrl, repo, token, fill] = process.argv.slice(2) as [string, string, string, string, string?]
let isFilled = fill === undefined
const { content } = await downloadCheckpoint(directory, {
  ...{ repo, token, hubUrl, pauseMs: 60_000 },
  onProgress() {
    if (isFilled) return
    isFilled = true
    try {
      writeFileSync(path.join(directory, '../filler'), Buffer.alloc(Number(fill)))
    } catch {
      // The disk is full, as intended.
    }
  },
})
console.log(content)
