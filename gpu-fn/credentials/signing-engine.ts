import type { Engine } from '../engine/engine.ts'
import type { Signer } from './signer.ts'

/** The engine with content credentials in each image file. Signing is the last change, so that later digests are those of the signed bytes. */
export function withCredentials(engine: Engine, { sign }: Signer): Engine {
  return {
    get models() {
      return engine.models
    },
    get loras() {
      return engine.loras
    },
    start: () => engine.start(),
    load: (model, size) => engine.load(model, size),
    warm: (model, sizes) => engine.warm(model, sizes),
    stop: () => engine.stop(),
    prefetch: (model, signal) => engine.prefetch?.(model, signal) ?? Promise.resolve(),
    async *run(model, request, signal, input) {
      for await (const event of engine.run(model, request, signal, input))
        yield event.type === 'image' ? { ...event, data: await sign(event.data, event.content_type) } : event
    },
  }
}
