import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { parseListen } from '../addresses.ts'
import type { Config } from '../config.ts'
import { ensureSelfSigned } from '../self-signed.ts'

/** The configuration with a certificate of this machine's own, and how clients learn to trust it. */
export async function withSelfSigned(config: Config): Promise<{ config: Config; notes: string[] }> {
  const names = new Set(['localhost', '127.0.0.1', '::1', hostname().toLowerCase()])
  for (const list of Object.values(networkInterfaces()))
    for (const { address, internal } of list ?? []) if (!internal && !address.startsWith('fe80')) names.add(address)
  if (config.server.publicUrl) names.add(new URL(config.server.publicUrl).hostname.replace(/^\[|\]$/g, ''))
  const { cert, key, fingerprint } = await ensureSelfSigned(join(config.storage.root, 'tls'), [...names])
  const port = parseListen(config.server.listenAddr).port
  const host = `${[...names].find((name) => /^[0-9.]+$/.test(name) && name !== '127.0.0.1') ?? 'localhost'}:${port}`
  const notes = [
    `The certificate is self-signed: SHA-256 ${fingerprint}`,
    `Copy ${cert} to a client, then there:`,
    `  docker:          mkdir -p /etc/docker/certs.d/${host} && cp cert.pem /etc/docker/certs.d/${host}/ca.crt`,
    `  podman, skopeo:  mkdir -p /etc/containers/certs.d/${host} && cp cert.pem /etc/containers/certs.d/${host}/ca.crt`,
    `  others:          SSL_CERT_FILE=cert.pem crane …`,
  ]
  return { config: { ...config, server: { ...config.server, tlsCert: cert, tlsKey: key } }, notes }
}
