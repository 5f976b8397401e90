// Embeddings of recent prompts, so that a repeated prompt is not encoded again.
import type { EncodedPrompts, PromptEmbeds } from './prompt.ts'

/** The share of the cache that one tenant fills, so that it does not displace the prompts of others. */
const TENANT = 0.5

export type PromptCache = {
  /**
   * The value of `key`, encoded by `encode` if the tenant has none. Tenants are separate: the time of a request does not reveal another's
   * prompts. Prompts that were encoded in one batch are one entry, because a batch may round differently.
   */
  get(tenant: string, key: string, encode: () => Promise<EncodedPrompts>): Promise<EncodedPrompts>
  clear(): void
}

type Entry = { tenant: string; value: EncodedPrompts; bytes: number }

/** Holds up to `limit` bytes; the least recently used entries are dropped first. */
export function createPromptCache(limit: number): PromptCache {
  /** Least recently used first. */
  const entries = new Map<string, Entry>()
  const bytesOf = (tenant?: string) =>
    [...entries.values()].reduce(
      (sum, each) => sum + (tenant === undefined || each.tenant === tenant ? each.bytes : 0),
      0,
    )
  const drop = (tenant?: string) => {
    for (const [key, entry] of entries) if (tenant === undefined || entry.tenant === tenant) return entries.delete(key)
    return false
  }
  return {
    clear: () => entries.clear(),
    async get(tenant, text, encode) {
      const key = JSON.stringify([tenant, text])
      const found = entries.get(key)
      entries.delete(key)
      const value = found?.value ?? (await encode())
      const bytes = found?.bytes ?? value.prompts.reduce((sum, prompt) => sum + sizeOf(prompt), key.length * 2)
      if (bytes > TENANT * limit) return value
      entries.set(key, { tenant, value, bytes })
      while (bytesOf(tenant) > TENANT * limit) drop(tenant)
      while (bytesOf() > limit) drop()
      return value
    },
  }
}

const sizeOf = ({ embeds, pooled }: PromptEmbeds) => embeds.byteLength + pooled.byteLength
