import { signal } from '@preact/signals'

export type View = 'playground' | 'account'
const viewOf = (hash: string): View => (hash === '#account' ? 'account' : 'playground')

/** The tab of the page, as in the address. */
export const view = signal<View>('playground')

export function startPageNavigation(): void {
  view.value = viewOf(location.hash)
  addEventListener('hashchange', () => {
    view.value = viewOf(location.hash)
  })
}
