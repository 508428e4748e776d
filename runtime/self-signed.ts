import { createPrivateKey, webcrypto, X509Certificate } from 'node:crypto'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { makeDirectory, syncNames } from './sync-names.ts'

const days = 825
const dayMs = 86_400_000

/**
 * A certificate of the machine's own for these names, kept in `directory` and made anew when it ends within a month or misses a name.
 * Shape: paths of certificate and key (0600), and the certificate's SHA-256.
 */
export async function ensureSelfSigned(
  directory: string,
  names: readonly string[],
): Promise<{ cert: string; key: string; fingerprint: string }> {
  const cert = join(directory, 'cert.pem')
  const key = join(directory, 'key.pem')
  if (!isUsable(cert, key, names)) await make(directory, cert, key, names)
  return { cert, key, fingerprint: new X509Certificate(readFileSync(cert)).fingerprint256 }
}

function isUsable(cert: string, key: string, names: readonly string[]): boolean {
  if (!existsSync(cert) || !existsSync(key)) return false
  let certificate: X509Certificate
  try {
    certificate = new X509Certificate(readFileSync(cert))
    // Of two processes that made them at once each may have left one.
    if (!certificate.checkPrivateKey(createPrivateKey(readFileSync(key)))) return false
  } catch {
    // Whatever they are, they are ours to make, and no certificate and key.
    return false
  }
  if (Date.parse(certificate.validTo) - Date.now() < 30 * dayMs) return false
  return names.every((name) => (isIP(name) ? certificate.checkIP(name) : certificate.checkHost(name)) !== undefined)
}

async function make(directory: string, cert: string, key: string, names: readonly string[]): Promise<void> {
  makeDirectory(directory)
  // Loaded where it is used: it would slow every start.
  await import('reflect-metadata')
  const x509 = await import('@peculiar/x509')
  x509.cryptoProvider.set(webcrypto as never)
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: Buffer.from(webcrypto.getRandomValues(new Uint8Array(15)))
      .toString('hex')
      .replace(/^./, '1'),
    name: `CN=MCR ${names.find((name) => !isIP(name)) ?? 'registry'}`,
    notBefore: new Date(Date.now() - dayMs),
    notAfter: new Date(Date.now() + days * dayMs),
    keys: keys as never,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature | x509.KeyUsageFlags.keyCertSign, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(
        names.map((name) => ({ type: isIP(name) ? ('ip' as const) : ('dns' as const), value: name })),
      ),
    ],
  })
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64')
  const pem = `-----BEGIN PRIVATE KEY-----\n${pkcs8.match(/.{1,64}/g)?.join('\n')}\n-----END PRIVATE KEY-----\n`
  for (const [path, text, mode] of [
    [key, pem, 0o600],
    [cert, `${certificate.toString('pem')}\n`, 0o644],
  ] as const) {
    writeFileSync(`${path}.new`, text, { mode, flush: true })
    renameSync(`${path}.new`, path)
  }
  syncNames(directory)
}
