import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import type { SecureContextOptions } from 'node:tls'
import { createSecureContext } from 'node:tls'

export interface TlsFiles {
  cert: string
  key: string
}

export interface LoadedTls {
  context: SecureContextOptions
  /** DNS names and addresses the certificate is for. */
  names: string[]
  /** Changes when a file does. */
  stamp: string
}

const stampOf = (path: string) => {
  const { mtimeMs, size, ino } = statSync(path)
  return `${mtimeMs} ${size} ${ino}`
}

/** A certificate and its key. Errors: a plain Error where one cannot be read, the key is open to others, or the two do not fit. */
export function loadTls(files: TlsFiles): LoadedTls {
  const stamp = `${stampOf(files.cert)} ${stampOf(files.key)}`
  if ((statSync(files.key).mode & 0o037) !== 0)
    throw new Error(`${files.key}: a key that others can read or write; chmod 0600 or 0640`)
  const context = { cert: readFileSync(files.cert), key: readFileSync(files.key) }
  const certificate = named(files.cert, () => new X509Certificate(context.cert))
  named(`${files.cert} with ${files.key}`, () => createSecureContext(context))
  const names = (certificate.subjectAltName ?? '').split(', ').flatMap((entry) => {
    const match = /^(?:DNS|IP Address):(.+)$/.exec(entry)
    return match ? [(match[1] as string).toLowerCase()] : []
  })
  return { context, names, stamp }
}

/** What OpenSSL says names no file. */
function named<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new Error(`${what}: ${(error as Error).message}`, { cause: error })
  }
}

/** The stamp of the files as they are now, without reading them; undefined while they are being replaced. */
export function currentStamp(files: TlsFiles): string | undefined {
  try {
    return `${stampOf(files.cert)} ${stampOf(files.key)}`
  } catch {
    return undefined
  }
}

/** Whether a host (no port) is one of a certificate's names; `*.` stands for one label.  Source: RFC 6125 §6.4. */
export function isNameOf(names: readonly string[], host: string): boolean {
  const name = host.replace(/^\[|\]$/g, '').toLowerCase()
  return names.some(
    (entry) =>
      entry === name || (entry.startsWith('*.') && name.indexOf('.') > 0 && name.slice(name.indexOf('.')) === entry.slice(1)),
  )
}
