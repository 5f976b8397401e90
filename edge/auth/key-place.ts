// The place of the key in a request.

/** A scheme of the Authorization header, or a header of its own. */
export type KeyPlace = 'Basic' | 'Bearer' | 'Key' | 'Token' | 'api-key' | `x-${string}`

/** The password of `Authorization: Basic`, or the user name if the password is empty; null if it is malformed. */
function parseBasicKey(credentials: string): string | null {
  try {
    const text = atob(credentials)
    const at = text.indexOf(':')
    return text.slice(at + 1) || text.slice(0, at)
  } catch {
    return null
  }
}

const isHeader = (place: KeyPlace) => place === 'api-key' || place.startsWith('x-')

function readKeyAt(place: KeyPlace, header: (name: string) => string | undefined): string | null {
  if (isHeader(place)) return header(place) ?? null
  const [, scheme, credentials] = /^(\w+) +(\S+)$/.exec(header('authorization') ?? '') ?? []
  if (scheme?.toLowerCase() !== place.toLowerCase() || !credentials) return null
  return place === 'Basic' ? parseBasicKey(credentials) : credentials
}

/** The key from the first place that has one; null if none has one. */
export function findKeyText(places: readonly KeyPlace[], header: (name: string) => string | undefined): string | null {
  for (const place of places) {
    const key = readKeyAt(place, header)
    if (key) return key
  }
  return null
}

/** Instructions for sending a key at a place, for messages. */
export const describePlace = (place: KeyPlace): string =>
  isHeader(place)
    ? `"${place}: oct_…"`
    : `"Authorization: ${place} ${place === 'Basic' ? '…", with the key as the password' : 'oct_…"'}`
