// Model names of other providers that the deployment serves with its own models. Pure.
import type { Catalog } from '../config/catalog.ts'
import { ApiError } from '../http/errors.ts'
import { formatValue } from '../http/validation.ts'

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

/** The model that serves a requested name, as `resolveModel` finds it. Errors: not_found for a name without an offer. */
export function checkModel(catalog: Pick<Catalog, 'aliases' | 'offers'>, name: string): string | undefined {
  const model = name === 'auto' ? undefined : resolveModel(catalog, name)
  const served = new Set(catalog.offers.map((offer) => offer.model))
  if (model === undefined || served.has(model)) return model
  const message = `model is ${formatValue(name)}; this deployment serves ${['auto', ...served].join(', ')}.`
  throw new ApiError('not_found', message, { param: 'model' })
}
