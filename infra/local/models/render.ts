// Image generation without a server: the pipeline on this thread.

import { type OpenPipeline, openPipeline } from '../../../gpu-fn/engine/package/open-pipeline.ts'
import type { ControlnetPackage } from '../../../gpu-fn/manifest.ts'
import type { ControlImage } from '../../../gpu-fn/pipeline/control.ts'
import type { PipelineEvent } from '../../../gpu-fn/pipeline/events.ts'
import type { InputImage } from '../../../gpu-fn/pipeline/input/start.ts'
import { type Txt2ImgRequest, txt2img } from '../../../gpu-fn/pipeline/txt2img.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'

/** A ControlNet for the request's `controls`, and its image. */
export type RenderImages = { input?: InputImage; control?: ControlImage & { controlnet: ControlnetPackage } }

/** Steps, guidance scale and size are the package's defaults unless set. */
export type RenderRequest = Pick<Txt2ImgRequest, 'prompt' | 'seed'> & Partial<Txt2ImgRequest>

/**
 * Generates one image, from `input` and guided by `control` if given, and returns the encoded file, a PNG by default. `onEvent` receives
 * every event of the pipeline.
 */
export async function render(
  pipeline: OpenPipeline,
  request: RenderRequest,
  onEvent: (event: PipelineEvent) => void = () => {},
  { input, control }: RenderImages = {},
): Promise<Uint8Array> {
  const whole: Txt2ImgRequest = {
    ...{ negative_prompt: '', text_convention: 'diffusers', output_format: 'png', output_quality: 90 },
    ...pipeline.package.manifest.defaults,
    ...request,
    count: 1,
  }
  const opened = await pipeline.useControlnet(control?.controlnet ?? null)
  const controlnet = control && opened && { controlnet: { opened, image: control } }
  let file: Uint8Array | undefined
  const images = { ...(input && { input }), ...controlnet }
  for await (const event of txt2img(pipeline, whole, new AbortController().signal, images)) {
    onEvent(event)
    if (event.type === 'image') file = event.data
  }
  if (!file) throw new Error('the pipeline returned no image')
  return file
}

/** Opens the package in a directory for the duration of `use`. */
export async function withPipeline<T>(
  directory: string,
  use: (pipeline: OpenPipeline) => Promise<T>,
  options: Parameters<typeof openPipeline>[1] = {},
): Promise<T> {
  const pipeline = await openPipeline(await openPackage(directory), options)
  try {
    return await use(pipeline)
  } finally {
    await pipeline.release()
  }
}
