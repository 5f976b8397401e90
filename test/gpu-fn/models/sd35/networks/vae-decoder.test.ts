import { describe, expect, it } from 'vitest'
import { computeRelativeError, createPseudoRandom } from '../../../../support/checkpoints/tensors.ts'
import { CASES, goldenOf, listSubjects, shapeOf, TOLERANCE, useNetworks } from '../../../../support/checkpoints/tiny.ts'

describe.each(listSubjects('vae_decoder'))('VAE decoder of $variant, $layout, $tier', (subject) => {
  const networks = useNetworks(subject, ['vae_decoder'])

  it.each(CASES.vae_decoder)(
    'equals diffusers on $batch × $height × $width',
    async ({ name, batch, height, width }) => {
      const golden = await goldenOf(subject)
      const latent = createPseudoRandom([batch, shapeOf(subject).transformer.channels, height, width], 6)
      const { image } = await networks().run('vae_decoder', { latent })
      expect(computeRelativeError(image!, golden(`vae_decoder.${name}.image`))).toBeLessThan(TOLERANCE)
    },
  )
})
