// A package with its graphs and tokenizers open, ready to make images.
import path from 'node:path'
import type { NetworkName } from './compile/manifest.ts'
import type { Package } from './packages.ts'
import type { EncoderName, TextEncoders } from './prompt.ts'
import { openSession, type Session, type SessionOptions } from './session.ts'
import { openTokenizer } from './tokenizer.ts'

/** Use it from one thread. */
export type Pipeline = {
  package: Package
  encoders: TextEncoders
  conditioning: Session
  transformer: Session
  vaeDecoder: Session
  release(): Promise<void>
}

const TOKENIZERS = { clip_l: 'tokenizer', clip_g: 'tokenizer_2', t5: 'tokenizer_3' } as const
/** On the CPU the weights of packages up to this size are widened to float32 as they are opened: some gigabytes for much speed. */
const FOLD_BYTES = 2 ** 30

/**
 * Whether the weights of a package are folded when it is opened, and the bytes that it then takes at most: the CPU keeps every float16
 * weight, and every folded FP8 weight, as float32.
 */
export function footprintOf({ manifest: { files, target, tier } }: Pick<Package, 'manifest'>) {
  const bytes = Object.values(files).reduce((sum, file) => sum + file.bytes, 0)
  const fold = target === 'cpu' && bytes <= FOLD_BYTES
  const widening = target === 'cuda' || tier === 'fp32' ? 1 : fold && tier !== 'fp16' ? 4 : 2
  return { fold, bytes: bytes * widening }
}

/** Opens every graph and tokenizer of a package. Throws `SessionError` or `TokenizerError`, with nothing left open. */
export async function openPipeline(
  pkg: Package,
  options: Pick<SessionOptions, 'fold' | 'threads'> = {},
): Promise<Pipeline> {
  const { directory, manifest } = pkg
  const { fold } = footprintOf(pkg)
  const opened: Session[] = []
  const release = async () => {
    for (const session of opened.splice(0)) await session.release()
  }
  const open = async (network: NetworkName) => {
    const { file } = manifest.networks[network]!
    const session = await openSession(path.join(directory, file), {
      target: manifest.target,
      fold,
      ...options,
    })
    opened.push(session)
    return session
  }
  try {
    const encoders: TextEncoders = {}
    for (const name of Object.keys(TOKENIZERS) as EncoderName[]) {
      if (!manifest.networks[name]) continue
      const tokenizer = await openTokenizer(path.join(directory, TOKENIZERS[name]))
      encoders[name] = { session: await open(name), tokenizer }
    }
    const conditioning = await open('conditioning')
    const transformer = await open('transformer')
    return { package: pkg, encoders, conditioning, transformer, vaeDecoder: await open('vae_decoder'), release }
  } catch (error) {
    await release()
    throw error
  }
}
