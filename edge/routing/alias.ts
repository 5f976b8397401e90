// Model names of other providers that the deployment serves with its own models. Pure.
import type { Catalog } from '../config/catalog.ts'

const isMatch = (alias: string, name: string) =>
  alias.endsWith('*') ? name.startsWith(alias.slice(0, -1)) : alias === name

/**
 * The model that serves a requested name; undefined for the name `auto` and its aliases, which any model serves. Names of offers take
 * precedence over aliases, and longer aliases over shorter ones. A name without an alias is returned unchanged.
 */
export function resolveModel(
  { offers, aliases = {} }: Pick<Catalog, 'aliases' | 'offers'>,
  name: string,
): string | undefined {
  if (offers.some(({ model }) => model === name)) return name
  const alias = Object.keys(aliases)
    .filter((each) => isMatch(each, name))
    .toSorted((a, b) => b.length - a.length)[0]
  const model = alias === undefined ? name : aliases[alias]!
  return model === 'auto' ? undefined : model
}
