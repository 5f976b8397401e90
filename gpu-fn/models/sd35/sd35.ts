// Stable Diffusion 3.5 as a network family.
import { readCheckpoint } from '../../compile/checkpoint/checkpoint.ts'
import type { Family } from '../family.ts'
import { buildModel } from './build.ts'
import { naming } from './naming.ts'
import { VARIANTS } from './variants.ts'

export const openCheckpoint: Family['openCheckpoint'] = (paths) => readCheckpoint(paths, naming)

export const sd35: Family = { variants: VARIANTS.map(({ name }) => name), openCheckpoint, buildModel }
