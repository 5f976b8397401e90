// The fixed prompts that quality is measured on; training never saw their compositions.
import fs from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { NANO } from '../local/built-in-model.ts'

const qualityPrompt = z.object({
  prompt: z.string(),
  seed: z.int(),
  /** What the picture shows, the main sprite first. */
  sprites: z.array(z.object({ name: z.string(), count: z.int().min(1) })).min(1),
  /** The colours at both edges; they differ for a gradient. */
  background: z.object({ top: z.string(), bottom: z.string() }),
  /** One sprite on a plain ground, which needs no T5 to be understood. */
  simple: z.boolean(),
})
export type QualityPrompt = z.infer<typeof qualityPrompt>

const readJson = async (name: string): Promise<unknown> => JSON.parse(await fs.readFile(path.join(NANO, name), 'utf8'))

export const readQualityPrompts = async () => z.array(qualityPrompt).parse(await readJson('quality-prompts.json'))
