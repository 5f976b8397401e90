// Advice for paths that result from a wrong base URL.

/** The first segments of paths below /v1 that clients of OpenAI's API request. */
const RESOURCES = /^\/(account|images|jobs|keys|models|quote|results|tokens|usage|webhooks)(\/|$)/
const TEXT = /\/(chat\/completions|completions|embeddings|responses)\/?$/

/** A sentence with a leading space for a path that is not served; empty if there is no advice. `origin` is the worker's address. */
export function findHint(path: string, origin: string): string {
  const base = `the base URL is ${origin}/v1`
  if (path.startsWith('/openai/'))
    return ` This is a path of Azure's API, which is not served; use the client for OpenAI's API: ${base}.`
  if (/^\/(v1\/){2}/.test(path))
    return ` The path has /v1 twice: ${base}, or ${origin} for a client that adds /v1 to it.`
  if (TEXT.test(path)) return ` This service generates images: POST ${origin}/v1/images/generations.`
  if (RESOURCES.test(path)) return ` The path lacks /v1: ${base}.`
  return ''
}
