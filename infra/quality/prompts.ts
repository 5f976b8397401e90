// The fixed prompts for measuring quality, whose compositions are not in the training data.
import fs from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { NANO } from '../local/models/built-in-model.ts'

const qualityPrompt = z.object({
  prompt: z.string(),
  seed: z.int(),
  /** The expected sprites, the main one first. */
  sprites: z.array(z.object({ name: z.string(), count: z.int().min(1) })).min(1),
  /** The colors at both edges; they differ for a gradient. */
  background: z.object({ top: z.string(), bottom: z.string() }),
  /** One sprite on a plain background, which needs no T5. */
  simple: z.boolean(),
})
export type QualityPrompt = z.infer<typeof qualityPrompt>

const readJson = async (name: string): Promise<unknown> => JSON.parse(await fs.readFile(path.join(NANO, name), 'utf8'))

export const readQualityPrompts = async () => z.array(qualityPrompt).parse(await readJson('quality-prompts.json'))
