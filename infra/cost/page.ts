// docs/cost.md with its tables made anew: each stands between two comments that name it.
import { SECTIONS } from './tables.ts'

/** Throws when the page lacks a table's place. */
export function fillPage(page: string, sections = SECTIONS): string {
  return Object.entries(sections).reduce((text, [name, section]) => {
    const place = new RegExp(`(<!-- ${name} -->\\n)[\\s\\S]*?(<!-- /${name} -->)`)
    if (!place.test(text)) throw new Error(`the page has no place for ${name}`)
    return text.replace(place, (_, before: string, after: string) => `${before}\n${section()}\n\n${after}`)
  }, page)
}
