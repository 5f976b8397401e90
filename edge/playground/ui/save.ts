import { createFileName } from '../api/format.ts'
import type { RunImage } from '../state/history.ts'

/** Saves a file of the server under a name. */
export async function download(url: string, name: string): Promise<void> {
  const response = await fetch(url)
  saveBlob(await response.blob(), name)
}

export function saveBlob(blob: Blob, name: string): void {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

export const downloadImage = ({ url, seed, content_type }: RunImage) =>
  url === null ? Promise.resolve() : download(url, createFileName(seed, content_type))
