import { useEffect, useRef } from 'preact/hooks'
import { problemOf } from '../state/draft.ts'
import { changeInput, type InputImage, inputImage, inputProblem, takeFile, takeTransfer } from '../state/input-image.ts'
import { Button, FieldError } from '../ui/controls.tsx'

/** Width of the brush as a share of the image's width. */
const BRUSH = 0.08

/** The mask's strokes on the canvas as an image: white on black. */
function maskOf(strokes: HTMLCanvasElement): string {
  const canvas = document.createElement('canvas')
  canvas.width = strokes.width
  canvas.height = strokes.height
  const context = canvas.getContext('2d')!
  context.fillRect(0, 0, canvas.width, canvas.height)
  context.drawImage(strokes, 0, 0)
  return canvas.toDataURL('image/png')
}

/** The image with a canvas above it, on which a pointer paints the part to repaint. */
function MaskCanvas({ width, height, image, mask }: InputImage) {
  const element = useRef<HTMLCanvasElement>(null)
  const isPainting = useRef(false)
  useEffect(() => {
    if (mask === null) element.current?.getContext('2d')?.clearRect(0, 0, width, height)
  }, [mask, width, height])
  const paint = (event: PointerEvent) => {
    const canvas = element.current!
    const context = canvas.getContext('2d')!
    const box = canvas.getBoundingClientRect()
    const [x, y] = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height]
    if (!isPainting.current) {
      isPainting.current = true
      canvas.setPointerCapture(event.pointerId)
      context.beginPath()
      context.moveTo(x, y)
    }
    context.lineCap = 'round'
    context.lineJoin = 'round'
    context.lineWidth = BRUSH * width
    context.strokeStyle = 'white'
    context.lineTo(x, y)
    context.stroke()
  }
  const end = () => {
    if (!isPainting.current) return
    isPainting.current = false
    changeInput({ mask: maskOf(element.current!) })
  }
  return (
    <div class="input-image">
      <img src={image} alt="Input" />
      <canvas
        ref={element}
        {...{ width, height }}
        role="img"
        aria-label="Mask: paint the part to repaint"
        onPointerDown={paint}
        onPointerMove={(event) => isPainting.current && paint(event)}
        onPointerUp={end}
        onPointerCancel={end}
      />
    </div>
  )
}

function Strength({ strength }: InputImage) {
  return (
    <div class="field">
      <label for="strength">
        Strength <output>{strength.toFixed(2)}</output>
      </label>
      <input
        id="strength"
        type="range"
        {...{ min: 0.05, max: 1, step: 0.05, value: strength }}
        onInput={(event) => changeInput({ strength: Number(event.currentTarget.value) })}
      />
      <FieldError id="strength-error" text={problemOf('strength')} />
    </div>
  )
}

/** The input image: a file, dropped or pasted, with its mask and strength. */
export function InputField() {
  const input = inputImage.value
  useEffect(() => {
    const onPaste = (event: ClipboardEvent) => {
      if (takeTransfer(event.clipboardData)) event.preventDefault()
    }
    document.addEventListener('paste', onPaste)
    return () => document.removeEventListener('paste', onPaste)
  }, [])
  return (
    <section
      class="field input"
      aria-label="Input image"
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault()
        takeTransfer(event.dataTransfer)
      }}
    >
      <label for="input-image">Input image</label>
      <input
        id="input-image"
        type="file"
        accept="image/png,image/jpeg,image/webp,image/gif,image/avif"
        onChange={(event) => {
          const [file] = event.currentTarget.files ?? []
          if (file) void takeFile(file)
          event.currentTarget.value = ''
        }}
      />
      {input === null ? (
        <p class="hint">Optional: choose, drop or paste an image to start from.</p>
      ) : (
        <>
          <MaskCanvas {...input} />
          <p class="hint">Paint on the image to repaint only that part.</p>
          <Strength {...input} />
          <div class="halves">
            <Button isDisabled={input.mask === null} onClick={() => changeInput({ mask: null })}>
              Clear the mask
            </Button>
            <Button
              icon="trash"
              onClick={() => {
                inputImage.value = null
                inputProblem.value = null
              }}
            >
              Remove the image
            </Button>
          </div>
        </>
      )}
      <FieldError id="image-error" text={inputProblem.value ?? problemOf('image', 'mask')} />
    </section>
  )
}
