// Client for container image registries (OCI distribution specification); needs no container engine.
import { createHash } from 'node:crypto'

/** An image reference: `repository` and `tag` as in `docker pull`; `digest` pins the content. */
export type ImageReference = { repository: string; tag: string; digest: string | null }

const REFERENCE = /^([a-z0-9][a-z0-9._/-]*):([\w][\w.-]{0,127})(?:@(sha256:[0-9a-f]{64}))?$/
const DOCKER_HUB = 'https://registry-1.docker.io'
const PLATFORM = { os: 'linux', architecture: 'amd64' }
const MANIFESTS = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
]

/** Parses a Docker Hub reference, `repository:tag` or `repository:tag@sha256:…`. Throws for anything else. */
export function parseReference(text: string): ImageReference {
  const [, repository, tag, digest] = REFERENCE.exec(text) ?? []
  if (!repository || !tag)
    throw new Error(`"${text}" is not an image reference; expected repository:tag or repository:tag@sha256:…`)
  return { repository, tag, digest: digest ?? null }
}

export const formatReference = ({ repository, tag, digest }: ImageReference) =>
  `${repository}:${tag}${digest ? `@${digest}` : ''}`

const pathOf = (repository: string) => (repository.includes('/') ? repository : `library/${repository}`)

/** Answers a registry's authentication challenge with an anonymous pull token. */
async function authorize(challenge: string, repository: string): Promise<Record<string, string>> {
  const readField = (name: string) => new RegExp(`${name}="([^"]*)"`).exec(challenge)?.[1]
  const realm = readField('realm')
  if (!/^bearer /i.test(challenge) || !realm) throw new Error(`the registry requires a login: ${challenge}`)
  const url = new URL(realm)
  url.searchParams.set('service', readField('service') ?? '')
  url.searchParams.set('scope', `repository:${pathOf(repository)}:pull`)
  const response = await fetch(url)
  if (!response.ok) throw new Error(`${url.host} did not issue a token: ${response.status}`)
  const { token, access_token } = (await response.json()) as { token?: string; access_token?: string }
  return { authorization: `Bearer ${token ?? access_token}` }
}

async function fetchManifest({ repository }: ImageReference, version: string, registry: string): Promise<Buffer> {
  const url = `${registry}/v2/${pathOf(repository)}/manifests/${version}`
  const headers = { accept: MANIFESTS.join(', ') }
  let response = await fetch(url, { headers })
  const challenge = response.headers.get('www-authenticate')
  if (response.status === 401 && challenge)
    response = await fetch(url, { headers: { ...headers, ...(await authorize(challenge, repository)) } })
  if (!response.ok) throw new Error(`the registry has no ${repository} ${version}: ${response.status}`)
  return Buffer.from(await response.arrayBuffer())
}

type Manifest = { manifests?: { platform?: { os: string; architecture: string } }[] }

function checkPlatform(image: ImageReference, body: Buffer): void {
  const { manifests } = JSON.parse(body.toString()) as Manifest
  const fits = ({ platform }: NonNullable<Manifest['manifests']>[number]) =>
    platform?.os === PLATFORM.os && platform.architecture === PLATFORM.architecture
  if (manifests && !manifests.some(fits)) throw new Error(`${formatReference(image)} has no image for linux/amd64`)
}

/**
 * The digest of the manifest that the registry has for the image's digest, or for its tag if it is not pinned. Computed from the
 * response, so the registry need not be trusted. Throws if the manifest is missing, has a different digest, or lacks linux/amd64.
 */
export async function resolveDigest(image: ImageReference, registry = DOCKER_HUB): Promise<string> {
  const body = await fetchManifest(image, image.digest ?? image.tag, registry)
  const digest = `sha256:${createHash('sha256').update(body).digest('hex')}`
  if (image.digest !== null && digest !== image.digest)
    throw new Error(`the registry's reply for ${formatReference(image)} has the digest ${digest}`)
  checkPlatform(image, body)
  return digest
}
