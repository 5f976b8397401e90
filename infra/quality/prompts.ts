// The fixed prompts for measuring quality, whose compositions are not in the training data.
import fs from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { NANO } from '../local/models/built-in-model.ts'

export const RELATIONS = [
  'left',
  'right',
  'above',
  'below',
  'beside',
  'on',
  'riding',
  'wearing',
  'behind',
  'front',
] as const
export type Relation = (typeof RELATIONS)[number]

const expectedSprite = z.object({
  name: z.string(),
  /** Alternative sprites for the same word of the prompt. */
  or: z.array(z.string()).optional(),
  /** Undefined if the prompt does not state a number. */
  count: z.int().min(1).optional(),
  color: z.string().optional(),
})
export type ExpectedSprite = z.infer<typeof expectedSprite>

const qualityPrompt = z.object({
  prompt: z.string(),
  seed: z.int(),
  /** The expected sprites, the main one first. */
  sprites: z.array(expectedSprite).default([]),
  /** The expected backgrounds at both edges; they differ for a gradient. */
  background: z.object({ top: z.string(), bottom: z.string() }).optional(),
  /** One sprite on a plain background, which needs no T5. */
  simple: z.boolean().default(false),
  /** The relation of the first sprite to the second. */
  relation: z.enum(RELATIONS).optional(),
  /** The word on a sign or a banner. */
  text: z.string().optional(),
})
export type QualityPrompt = z.infer<typeof qualityPrompt>

const read = async (name: string): Promise<QualityPrompt[]> =>
  z.array(qualityPrompt).parse(JSON.parse(await fs.readFile(path.join(NANO, name), 'utf8')))

/** 200 compositions of one or several sprites. */
export const readQualityPrompts = () => read('quality-prompts.json')

/** 400 compositions: those of `readQualityPrompts`, then 200 with object colors, mixed counts, relations and words on signs. */
export const readHeldOutPrompts = async () => [...(await readQualityPrompts()), ...(await read('world-prompts.json'))]

/** 60 prompts in the style of users. Those with contents unknown to the judge have no expected contents. */
export const readNaturalPrompts = () => read('natural-prompts.json')
