import { generateKeyPairSync, verify } from 'node:crypto'
import { expect, test } from 'vitest'
import { readCertificate } from '../../../gpu-fn/credentials/certificate.ts'
import { readCredentialFiles, readPem } from '../../support/credentials.ts'

const messageOf = (files: { certificates: string; key: string }, now?: Date) => {
  try {
    readCertificate(files, now)
    return 'accepted'
  } catch (error) {
    return (error as Error).message
  }
}

test.each(['es256', 'es384', 'ps256', 'ed25519'])('reads a certificate for %s', async (algorithm) => {
  const certificate = readCertificate(await readCredentialFiles(algorithm))
  expect(certificate).toMatchObject({ algorithm, subject: `C=XX, O=Octet test, CN=${algorithm}` })
  expect(certificate.chain.match(/BEGIN CERTIFICATE/g)).toHaveLength(2)
})

test('signs with the raw ECDSA form that COSE requires', async () => {
  const files = await readCredentialFiles('es256')
  const signature = readCertificate(files).sign(Buffer.from('claim'))
  expect(signature).toHaveLength(64)
  const options = { key: files.certificates, dsaEncoding: 'ieee-p1363' } as const
  expect(verify('sha256', Buffer.from('claim'), options, signature)).toBe(true)
})

test('an error describes the defect of a certificate or key, and never contains the key', async () => {
  const { certificates, key } = await readCredentialFiles('es256')
  const [leaf, intermediate] = certificates.split(/(?<=END CERTIFICATE-----\n)/)
  const root = await readPem('root')
  const other = generateKeyPairSync('x25519').privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
  const damaged = key.replace(/\n.{10}/, '\n')
  expect(messageOf({ certificates: 'no PEM', key })).toBe(
    'OCTET_C2PA_CERTIFICATES has no certificate in PEM, between BEGIN CERTIFICATE and END CERTIFICATE',
  )
  expect(messageOf({ certificates: leaf!.replace(/\n.{10}/, '\n'), key })).toBe(
    'OCTET_C2PA_CERTIFICATES has a certificate that cannot be read',
  )
  expect(messageOf({ certificates, key: damaged })).toBe(
    'OCTET_C2PA_KEY is not a private key in PEM without a password',
  )
  for (const wrong of [await readPem('es384-key'), other])
    expect(messageOf({ certificates, key: wrong })).toBe(
      'OCTET_C2PA_KEY is not the private key of the first certificate of OCTET_C2PA_CERTIFICATES (C=XX, O=Octet test, CN=es256)',
    )
  expect(messageOf({ certificates, key }, new Date('2200-01-01'))).toMatch(/CN=es256\) expired on /)
  expect(messageOf({ certificates, key }, new Date('2020-01-01'))).toMatch(/CN=es256\) is valid from /)
  expect(messageOf({ certificates: await readPem('server'), key })).toMatch(
    /CN=server\) has the extended key usage 1\.3\.6\.1\.5\.5\.7\.3\.1; C2PA needs one of /,
  )
  expect(messageOf({ certificates: `${leaf}${root}${intermediate}`, key })).toMatch(
    /must have each certificate's issuer after it; .*CN=Root did not issue .*CN=es256$/,
  )
  expect(messageOf({ certificates: `${intermediate}${leaf}`, key })).toMatch(/is not the private key of the first/)
})
