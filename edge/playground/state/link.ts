// Links to a set of fields: `#p=` with base64url of JSON. The fragment is not sent to servers, so prompts reach no log.
import type { Fields, LoraChoice } from '../api/types.ts'
import { LORAS_MAX, SEED_MAX, useFields } from './draft.ts'

const MAX_CHARACTERS = 16_384
const utf8 = new TextEncoder()

export function linkTo({ image: _, mask: __, strength: ___, ...fields }: Fields): string {
  const binary = String.fromCharCode(...utf8.encode(JSON.stringify(fields)))
  const encoded = btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
  return `${location.origin}/#p=${encoded}`
}

/** The adapters of a link; malformed ones are left out. */
function parseLoras(given: unknown): LoraChoice[] {
  const items = (Array.isArray(given) ? given : []) as { id?: unknown; scale?: unknown }[]
  return items.slice(0, LORAS_MAX).flatMap((item) => {
    const { id, scale } = item ?? {}
    const isValid = typeof id === 'string' && id.length <= 200 && typeof scale === 'number' && Math.abs(scale) <= 4
    return isValid ? [{ id, scale }] : []
  })
}

/** Parses the fields of a link. Unknown or malformed ones are left out; null if there is no prompt. */
function parse(encoded: string): Fields | null {
  try {
    const bytes = Uint8Array.from(atob(encoded.replaceAll('-', '+').replaceAll('_', '/')), (each) => each.charCodeAt(0))
    const given = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>
    const readText = (name: string) => (typeof given[name] === 'string' ? given[name].slice(0, 10_000) : undefined)
    const readNumber = (name: string, max: number) => {
      const value = given[name]
      return typeof value === 'number' && value >= 0 && value <= max ? value : undefined
    }
    const [prompt, route, format] = [readText('prompt'), readText('route'), readText('output_format')]
    if (!prompt) return null
    const loras = parseLoras(given.loras)
    const [negative, steps, guidance] = [
      readText('negative_prompt'),
      readNumber('steps', 200),
      readNumber('guidance_scale', 30),
    ]
    return {
      ...{
        prompt,
        size: readText('size') ?? 'auto',
        seed: readNumber('seed', SEED_MAX) ?? 0,
        n: readNumber('n', 8) ?? 1,
      },
      output_format: format === 'jpeg' || format === 'webp' ? format : 'png',
      ...((route === 'turbo' || route === 'full') && { route }),
      ...(negative !== undefined && { negative_prompt: negative }),
      ...(steps !== undefined && { steps }),
      ...(guidance !== undefined && { guidance_scale: guidance }),
      ...(loras.length > 0 && { loras }),
    }
  } catch {
    return null
  }
}

/** Fills the form from the address, and removes the fields from the address. Nothing runs. */
export function takeLink(ratioOf: (size: string) => string): void {
  const encoded = new URLSearchParams(location.hash.slice(1)).get('p')
  if (encoded === null || encoded.length > MAX_CHARACTERS) return
  const fields = parse(encoded)
  history.replaceState(null, '', location.pathname)
  if (fields) useFields(fields, ratioOf(fields.size))
}
