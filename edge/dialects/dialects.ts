import { a1111 } from './a1111.ts'
import type { Dialect } from './definition/dialect.ts'
import { fal } from './fal.ts'
import { huggingFace } from './hugging-face.ts'
import { openai } from './openai/openai.ts'
import { replicate } from './replicate.ts'
import { stability } from './stability.ts'

/** Every dialect. Its name is stored in its jobs. */
export const DIALECTS: readonly Dialect[] = [openai, a1111, fal, huggingFace, replicate, stability]

/** The dialect of a job; undefined for the native API. */
export const findDialect = (name: string | null): Dialect | undefined => DIALECTS.find((each) => each.name === name)
