// The certificate that signs content credentials: a chain in PEM and the private key of its first certificate.
import {
  constants,
  createPrivateKey,
  type KeyObject,
  type SignKeyObjectInput,
  sign,
  X509Certificate,
} from 'node:crypto'

const CERTIFICATES = 'OCTET_C2PA_CERTIFICATES'
export const KEY = 'OCTET_C2PA_KEY'

/** An unusable certificate or key, or an absent library. Messages never contain the key. */
export class CredentialsError extends Error {
  override name = 'CredentialsError' as const
}

/** Both in PEM; the certificates from the signing one to the last intermediate one. */
export type CredentialFiles = { certificates: string; key: string }

export type SigningCertificate = {
  /** COSE's name in C2PA. */
  algorithm: 'es256' | 'es384' | 'es512' | 'ps256' | 'ed25519'
  /** The certificates in PEM, from the signing one on. */
  chain: string
  /** The bytes of the certificates, which the credentials contain. */
  chainBytes: number
  subject: string
  expires: Date
  sign(data: Uint8Array): Buffer
}

/** The keys that C2PA 2.2 §13.2.1 allows, with the hash and the options of their signatures. */
const ECDSA = { dsaEncoding: 'ieee-p1363' } as const
const PSS = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST } as const
const RSA_BITS = 2048
/** Purposes that C2PA 2.2 §14.5.1 accepts, by OID. */
const PURPOSES: ReadonlySet<string> = new Set(['1.3.6.1.5.5.7.3.4', '1.3.6.1.5.5.7.3.36', '1.3.6.1.4.1.62558.2.1'])
const BLOCK = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

/** Parses and checks both files. Throws CredentialsError. */
export function readCertificate(files: CredentialFiles, now = new Date()): SigningCertificate {
  const chain = parseChain(files.certificates)
  const [leaf] = chain
  const key = parseKey(files.key)
  if (!leaf.checkPrivateKey(key))
    throw new CredentialsError(
      `${KEY} is not the private key of the first certificate of ${CERTIFICATES} (${nameOf(leaf)})`,
    )
  assertUsable(leaf, now)
  assertOrder(chain)
  const { algorithm, hash, options } = algorithmOf(key)
  return {
    algorithm,
    chain: chain.map((each) => each.toString()).join(''),
    chainBytes: chain.reduce((sum, { raw }) => sum + raw.byteLength, 0),
    subject: nameOf(leaf),
    expires: new Date(leaf.validTo),
    sign: (data) => sign(hash, data, { key, ...options }),
  }
}

const nameOf = ({ subject }: X509Certificate) => subject.replaceAll('\n', ', ')

function parseChain(pem: string): [X509Certificate, ...X509Certificate[]] {
  const blocks = pem.match(BLOCK) ?? []
  try {
    const [first, ...others] = blocks.map((block) => new X509Certificate(block))
    if (first) return [first, ...others]
  } catch (cause) {
    throw new CredentialsError(`${CERTIFICATES} has a certificate that cannot be read`, { cause })
  }
  throw new CredentialsError(`${CERTIFICATES} has no certificate in PEM, between BEGIN CERTIFICATE and END CERTIFICATE`)
}

function parseKey(pem: string): KeyObject {
  try {
    return createPrivateKey(pem)
  } catch {
    throw new CredentialsError(`${KEY} is not a private key in PEM without a password`)
  }
}

function assertUsable(leaf: X509Certificate, now: Date): void {
  const fail = (problem: string) =>
    new CredentialsError(`the first certificate of ${CERTIFICATES} (${nameOf(leaf)}) ${problem}`)
  if (now < new Date(leaf.validFrom)) throw fail(`is valid from ${leaf.validFrom}`)
  if (now > new Date(leaf.validTo)) throw fail(`expired on ${leaf.validTo}`)
  if (leaf.ca) throw fail('is that of a certificate authority; the signing certificate must be the first one')
  if (!leaf.keyUsage?.some((purpose) => PURPOSES.has(purpose)))
    throw fail(
      `has the extended key usage ${leaf.keyUsage?.join(', ') ?? 'none'}; C2PA needs one of ${[...PURPOSES].join(', ')}`,
    )
}

function assertOrder(chain: readonly X509Certificate[]): void {
  for (const [k, issuer] of chain.slice(1).entries())
    if (!chain[k]!.checkIssued(issuer))
      throw new CredentialsError(
        `${CERTIFICATES} must have each certificate's issuer after it; ${nameOf(issuer)} did not issue ${nameOf(chain[k]!)}`,
      )
}

type Signature = {
  algorithm: SigningCertificate['algorithm']
  hash: string | null
  options: Omit<SignKeyObjectInput, 'key'>
}

const CURVES: Record<string, Signature> = {
  prime256v1: { algorithm: 'es256', hash: 'sha256', options: ECDSA },
  secp384r1: { algorithm: 'es384', hash: 'sha384', options: ECDSA },
  secp521r1: { algorithm: 'es512', hash: 'sha512', options: ECDSA },
}

function algorithmOf({ asymmetricKeyType: type, asymmetricKeyDetails: details }: KeyObject): Signature {
  const curve = CURVES[details?.namedCurve ?? '']
  if (curve) return curve
  if (type === 'ed25519') return { algorithm: 'ed25519', hash: null, options: {} }
  if (type?.startsWith('rsa') && (details?.modulusLength ?? 0) >= RSA_BITS)
    return { algorithm: 'ps256', hash: 'sha256', options: PSS }
  throw new CredentialsError(
    `${KEY} has the type ${type}; C2PA allows P-256, P-384, P-521, Ed25519, and RSA from ${RSA_BITS} bits on`,
  )
}
