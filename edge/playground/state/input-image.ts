// The input image of the form, its mask and its strength. They last as long as the page.
import { signal } from '@preact/signals'
import { announce } from './live.ts'

export type InputImage = {
  /** A data URL. */
  image: string
  width: number
  height: number
  /** A data URL; null repaints the whole image. */
  mask: string | null
  strength: number
}
export const inputImage = signal<InputImage | null>(null)
/** Why the last file was rejected. */
export const inputProblem = signal<string | null>(null)

/** Larger images are scaled down: no result shows more, and the upload stays small. */
const MAX_SIDE = 1536
const QUALITY = 0.92
const STRENGTH = 0.6

/** Takes an image file as the input image. A file that the browser cannot decode is a problem of the field. */
export async function takeFile(file: Blob): Promise<void> {
  inputProblem.value = null
  try {
    const bitmap = await createImageBitmap(file)
    const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height))
    const canvas = document.createElement('canvas')
    canvas.width = Math.max(1, Math.round(bitmap.width * scale))
    canvas.height = Math.max(1, Math.round(bitmap.height * scale))
    canvas.getContext('2d')!.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
    const image = canvas.toDataURL(file.type === 'image/png' ? 'image/png' : 'image/jpeg', QUALITY)
    const { width, height } = canvas
    inputImage.value = { image, width, height, mask: null, strength: inputImage.value?.strength ?? STRENGTH }
    announce('The input image was added.')
  } catch {
    inputProblem.value = 'This file is not an image that the browser can show.'
  }
}

/** Takes the image of a paste or a drop, or else its first file, if there is one. */
export function takeTransfer(transfer: DataTransfer | null): boolean {
  const files = [...(transfer?.files ?? [])]
  const file = files.find(({ type }) => type.startsWith('image/')) ?? files[0]
  if (file) void takeFile(file)
  return file !== undefined
}

export const changeInput = (change: Partial<Pick<InputImage, 'mask' | 'strength'>>): void => {
  if (inputImage.value) inputImage.value = { ...inputImage.value, ...change }
}
