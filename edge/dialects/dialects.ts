import type { Dialect } from './dialect.ts'
import { openai } from './openai/openai.ts'
import { stability } from './stability.ts'

/** Every dialect. Its name is stored in its jobs. */
export const DIALECTS: readonly Dialect[] = [openai, stability]

/** The dialect of a job; undefined for the native API. */
export const findDialect = (name: string | null): Dialect | undefined => DIALECTS.find((each) => each.name === name)
