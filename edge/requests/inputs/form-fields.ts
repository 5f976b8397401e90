// Converts the fields of a form to values of JSON: texts to numbers, truth values, lists or objects, and files to base64.

import { limitStructure } from '../../http/request-body.ts'

/** Fields whose text is taken as it is. */
const TEXT = /^(prompt|prompt_2|prompt_3|negative_prompt|model|user|webhook|seed|image|mask|control_image)$/
/** Fields of lists and objects, as JSON in a form. */
const STRUCTURED = /^(sigmas|guidance_interval|skip_layer_guidance|loras|controls)$/
const NUMBER = /^-?\d{1,15}(\.\d{1,15})?$/

const convert = (name: string, value: unknown): unknown => {
  if (typeof value !== 'string' || TEXT.test(name)) return value
  if (value === 'true' || value === 'false') return value === 'true'
  if (STRUCTURED.test(name)) return parseOrKeep(value)
  return NUMBER.test(value) ? Number(value) : value
}

/** Errors: body_too_large. */
function parseOrKeep(text: string): unknown {
  limitStructure(text)
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** The fields of a form, with typed values. Files stay. */
export const toTypedFields = (form: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(form).map(([name, value]) => [name, convert(name, value)]))

/** The fields with each file as base64. */
export async function withFilesAsText(fields: Readonly<Record<string, unknown>>): Promise<Record<string, unknown>> {
  const entries = Object.entries(fields).map(async ([name, value]) => [
    name,
    value instanceof File ? (await value.bytes()).toBase64() : value,
  ])
  return Object.fromEntries(await Promise.all(entries))
}
