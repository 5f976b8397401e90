// Stable Diffusion 3.5 as a network family.
import { readCheckpoint } from '../../compile/checkpoint/checkpoint.ts'
import type { Family } from '../family.ts'
import { buildModel } from './build.ts'
import { buildControlnet } from './controlnet.ts'
import { controlnetNaming } from './names/controlnet-names.ts'
import { createSd35LoraNames } from './names/lora-names.ts'
import { naming, type Sd35Network } from './names/naming.ts'
import { omitsT5 } from './text-encoders.ts'
import { VARIANTS } from './variants.ts'

export const openCheckpoint: Family['openCheckpoint'] = (paths, options) =>
  readCheckpoint(paths, naming, new Set<Sd35Network>(options && omitsT5(options) ? ['t5'] : []))

export const sd35: Family = {
  variants: VARIANTS.map(({ name }) => name),
  openCheckpoint,
  buildModel,
  openControlnet: (path) => readCheckpoint([path], controlnetNaming),
  buildControlnet,
  loraNames: createSd35LoraNames,
}
