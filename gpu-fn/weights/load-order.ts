// The order in which the networks and files of a package load.
import { IMAGE_ENCODER, type Manifest, type NetworkName } from '../manifest.ts'

/** The networks of each further device. */
export const DENOISER: readonly NetworkName[] = ['conditioning', 'transformer']

/**
 * Networks in the order in which they load: the decoder first, because its first run takes longest; the denoiser, which has most of the
 * weights, after all networks that run before it; the image encoder last, because only some jobs use it.
 */
export function sortForLoad(networks: readonly NetworkName[]): NetworkName[] {
  const rankOf = (network: NetworkName) =>
    network === 'vae_decoder' ? 0 : network === IMAGE_ENCODER ? 3 : DENOISER.includes(network) ? 2 : 1
  return networks.toSorted((a, b) => rankOf(a) - rankOf(b))
}

/** Weights files in the order in which they load. */
export const listWeightsInLoadOrder = ({ networks }: Pick<Manifest, 'networks'>): string[] =>
  sortForLoad(Object.keys(networks)).flatMap((network) => networks[network]?.weights ?? [])

type Files = Pick<Manifest, 'files' | 'networks'>

/** All files in the order in which they load: graphs and tokenizers, then weights. */
export function listFilesInLoadOrder({ files, networks }: Files): [name: string, Manifest['files'][string]][] {
  const weights = listWeightsInLoadOrder({ networks })
  const rankOf = (name: string) => weights.indexOf(name)
  return Object.entries(files).toSorted(([a, { bytes }], [b, other]) => rankOf(a) - rankOf(b) || bytes - other.bytes)
}
