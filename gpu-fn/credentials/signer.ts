// Signs image files with content credentials (C2PA) through @contentauth/c2pa-node, which is loaded only for this.
import packageJson from '../../package.json' with { type: 'json' }
import { chooseDigitalSourceType } from '../pipeline/image.ts'
import { encodePng } from '../pipeline/png.ts'
import { type CredentialFiles, CredentialsError, readCertificate, type SigningCertificate } from './certificate.ts'

type Library = typeof import('@contentauth/c2pa-node')

export type Signer = Pick<SigningCertificate, 'subject' | 'expires'> & {
  /** The file with credentials. Any later change of its bytes invalidates them. `hasInput`: the model also had an input image. */
  sign(file: Uint8Array, contentType: string, hasInput?: boolean): Promise<Uint8Array>
}

const GENERATOR = { name: 'Octet', version: packageJson.version }
/** Bytes of a signature beside the certificates. */
const SIGNATURE_BYTES = 2048
const SETTINGS = { builder: { thumbnail: { enabled: false } } }

/**
 * Checks the certificate and the key, and signs a small test image. Throws CredentialsError. A signer keeps the process running until
 * `process.exit`.
 */
export async function openSigner(files: CredentialFiles): Promise<Signer> {
  const certificate = readCertificate(files)
  const library = await loadLibrary()
  const signer = createSigner(library, certificate)
  await proveSignature(library, signer)
  return signer
}

async function loadLibrary(): Promise<Library> {
  try {
    const library = await import('@contentauth/c2pa-node')
    // The native part is loaded with its first use.
    library.Builder.withJson({})
    return library
  } catch (cause) {
    const problem = `content credentials need @contentauth/c2pa-node, which cannot be loaded on ${process.platform} ${process.arch}`
    throw new CredentialsError(`${problem}; npm run credentials:setup installs it on Linux x64`, { cause })
  }
}

function createSigner({ Builder, CallbackSigner }: Library, certificate: SigningCertificate): Signer {
  const { algorithm, chain, chainBytes, subject, expires } = certificate
  const config = {
    ...{ alg: algorithm, certs: [Buffer.from(chain)], reserveSize: chainBytes + SIGNATURE_BYTES },
    // The library wraps the raw signature.
    directCoseHandling: false,
  }
  const signer = CallbackSigner.newSigner(config, async (data) => certificate.sign(data))
  const sign = async (file: Uint8Array, contentType: string, hasInput = false) => {
    const builder = Builder.withJson({ claim_generator_info: [GENERATOR], format: contentType }, SETTINGS)
    builder.setIntent({ create: chooseDigitalSourceType(hasInput) })
    const signed: { buffer: Buffer | null } = { buffer: null }
    await builder.signAsync(signer, { buffer: Buffer.from(file), mimeType: contentType }, signed)
    return signed.buffer!
  }
  return { subject, expires, sign }
}

/** An image of one color, signed and read back. */
async function proveSignature({ Reader }: Library, { sign }: Signer): Promise<void> {
  const refuse = (problem: string, cause?: unknown) =>
    new CredentialsError(`C2PA's library refuses the certificate of OCTET_C2PA_CERTIFICATES: ${problem}`, { cause })
  const file = await encodePng(new Uint8Array(16 * 16 * 3), 16, 16, '')
  const signed = await sign(file, 'image/png').catch((error: Error) => {
    throw refuse(error.message, error)
  })
  const reader = await Reader.fromAsset({ buffer: Buffer.from(signed), mimeType: 'image/png' })
  const { validation_state, validation_results } = reader!.json()
  if (validation_state === 'Valid' || validation_state === 'Trusted') return
  throw refuse(validation_results?.activeManifest?.failure?.map(({ code }) => code).join(', ') ?? `${validation_state}`)
}
