import type { Engine } from '../engine/engine.ts'
import type { Signer } from './signer.ts'

/** The engine with content credentials in each image file. Signing is the last change, so that later digests are those of the signed bytes. */
export function withCredentials(engine: Engine, { sign }: Signer): Engine {
  async function* run(...call: Parameters<Engine['run']>): ReturnType<Engine['run']> {
    const [, , , options] = call
    for await (const event of engine.run(...call)) {
      if (event.type !== 'image') yield event
      else yield { ...event, data: await sign(event.data, event.content_type, options?.input !== undefined) }
    }
  }
  return new Proxy(engine, {
    get(target, name) {
      if (name === 'run') return run
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
