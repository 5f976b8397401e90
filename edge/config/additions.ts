// Adapters (LoRAs) and ControlNets of the catalog, and their compatibility with the packages of offered models.
import * as z from 'zod'
import { has4BitWeights, LIMITS, modelName, TIERS, type Tier } from '#contract'

/** Accounts with access; all by default. */
const accounts = z.array(z.string()).optional()

const modelOrPackage = z
  .string()
  .regex(
    new RegExp(`^[a-z0-9][a-z0-9-]{0,63}(:(${TIERS.join('|')}))?$`),
    `must be model or model:tier, where tier is one of ${TIERS.join(', ')}`,
  )

export const lora = z.strictObject({
  /** The name of its package: `npm run compile -- --lora FILE --name ID`. */
  id: modelName,
  /** Compatible models of `offers`: `model` stands for every tier without 4-bit weights, `model:tier` for one tier. */
  models: z.array(modelOrPackage).min(1),
  /** The default strength. */
  scale: z.number().min(-LIMITS.loras.scale).max(LIMITS.loras.scale).default(1),
  /** Words in a prompt that activate it. */
  trigger_words: z.array(z.string().min(1).max(100)).max(20).default([]),
  accounts,
})
export type LoraOffer = z.infer<typeof lora>

export const controlnet = z.strictObject({
  /** The name of its package: `npm run compile -- --controlnet FILE --name ID`. */
  id: modelName,
  /** Compatible models of `offers`. */
  models: z.array(modelName).min(1),
  /** The default strength. */
  scale: z.number().min(0).max(LIMITS.controls.scale).default(1),
  accounts,
})
export type ControlnetOffer = z.infer<typeof controlnet>

type ServedTier = { readonly model: string; readonly tier: Tier }
/** Whether an addition with these `models` is compatible with the package of an offer. */
export type CompatibilityCheck = (models: readonly string[], offer: ServedTier) => boolean

/** The model of `model` or `model:tier`. */
export const modelOf = (given: string): string => given.split(':')[0]!

/** An adapter may change any weight, but 4-bit weights cannot be updated. A tier with 4-bit weights must therefore be named. */
export const isLoraUsable: CompatibilityCheck = (models, { model, tier }) =>
  models.includes(`${model}:${tier}`) || (models.includes(model) && !has4BitWeights(tier))

/** ControlNets have their own weights, so they are compatible with every tier of a model. */
export const isControlnetUsable: CompatibilityCheck = (models, { model }) => models.includes(model)

/** Describes the problem of the first of an addition's `models` without a compatible offer; undefined if all have one. */
export function describeUnoffered(
  fits: CompatibilityCheck,
  models: readonly string[],
  offers: readonly ServedTier[],
): string | undefined {
  const given = models.find((each) => !offers.some((offer) => fits([each], offer)))
  if (given === undefined) return undefined
  const tiers = [...new Set(offers.filter(({ model }) => model === given).map(({ tier }) => tier))]
  if (tiers.length === 0) return `is for ${given}, which is not offered`
  const named = tiers.map((tier) => `${given}:${tier}`).join(' or ')
  return `is for ${given}, which is offered only with 4-bit weights; name ${named} if the adapter does not change these`
}

const isUsableBy =
  (account: string) =>
  ({ accounts }: { accounts?: readonly string[] | undefined }): boolean =>
    accounts === undefined || accounts.includes(account)

/** The adapters available to an account. */
export const lorasOf = ({ loras = [] }: { loras?: LoraOffer[] | undefined }, account: string): LoraOffer[] =>
  loras.filter(isUsableBy(account))

/** The ControlNets available to an account. */
export const controlnetsOf = (
  { controlnets = [] }: { controlnets?: ControlnetOffer[] | undefined },
  account: string,
): ControlnetOffer[] => controlnets.filter(isUsableBy(account))
