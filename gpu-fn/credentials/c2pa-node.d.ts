// The parts of @contentauth/c2pa-node 0.8.0 that are used. The package is not installed with the project's dependencies.
declare module '@contentauth/c2pa-node' {
  type Source = { buffer: Buffer; mimeType: string }
  type Algorithm = 'es256' | 'es384' | 'es512' | 'ps256' | 'ed25519'
  type SignerConfig = { alg: Algorithm; certs: Buffer[]; reserveSize: number; directCoseHandling: boolean }

  export class CallbackSigner {
    static newSigner(config: SignerConfig, callback: (data: Buffer) => Promise<Buffer>): CallbackSigner
    certs(): Buffer[]
  }
  export class Builder {
    static withJson(manifest: object, settings?: object): Builder
    setIntent(intent: { create: string }): void
    signAsync(signer: CallbackSigner, input: Source, output: { buffer: Buffer | null }): Promise<Buffer>
  }
  type Status = { code: string; explanation?: string }
  export type ManifestStore = {
    active_manifest?: string
    manifests?: Record<string, Record<string, unknown>>
    validation_state?: string
    validation_results?: { activeManifest?: { failure?: Status[] } }
  }
  export class Reader {
    static fromAsset(asset: Source, settings?: object): Promise<Reader | null>
    json(): ManifestStore
  }
}
