// The address of the deployment as its callers see it.
import * as z from 'zod'
import { createTextSchema } from './values.ts'

const ALLOWED = 'empty, or an http or https address without a path, such as "https://images.example.com"'

/** `origin` is null for empty text: links then begin with the origin of each request. Null for invalid text. */
function parseOrigin(given: string): { origin: string | null } | null {
  if (given === '') return { origin: null }
  const url = URL.parse(given)
  const isOrigin = url && /^https?:$/.test(url.protocol) && url.href === `${url.origin}/`
  return isOrigin ? { origin: url.origin } : null
}

/** The origin of all links; null for the origin of each request. */
export const publicOrigin = z
  .object({ OCTET_PUBLIC_URL: createTextSchema(ALLOWED, parseOrigin).prefault('') })
  .transform(({ OCTET_PUBLIC_URL }) => OCTET_PUBLIC_URL.origin)
