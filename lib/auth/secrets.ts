/** What a secret of ours is for. Personal and robot tokens stand for a password; a login opens the administration; a session is a browser's. */
export type SecretKind = 'personal' | 'robot' | 'login' | 'session'

const prefixes: Readonly<Record<SecretKind, string>> = { personal: 'mcrp_', robot: 'mcrr_', login: 'mcrl_', session: 'mcrs_' }
const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const randomChars = 43
const checkChars = 6

/** A new secret: prefix, 256 random bits and a CRC-32 of both in base 62, so that scanners of leaked secrets know it without asking us. */
export function makeSecret(kind: SecretKind): string {
  const text = `${prefixes[kind]}${base62(bigOf(crypto.getRandomValues(new Uint8Array(32))), randomChars)}`
  return text + checksum(text)
}

/** What kind of secret a text is, or undefined where it is none of ours or was mistyped. Says nothing about whether it is valid. */
export function kindOfSecret(text: string): SecretKind | undefined {
  if (text.length !== 5 + randomChars + checkChars) return undefined
  for (const kind in prefixes)
    if (text.startsWith(prefixes[kind as SecretKind]))
      return checksum(text.slice(0, -checkChars)) === text.slice(-checkChars) ? (kind as SecretKind) : undefined
  return undefined
}

/** What the database keeps of a secret: SHA-256 in hex. 256 random bits need no slow hash. */
export async function hashSecret(text: string): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))))
}

export const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')

function checksum(text: string): string {
  let crc = 0xffffffff
  for (let at = 0; at < text.length; at++) {
    crc ^= text.charCodeAt(at)
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  }
  return base62(BigInt((crc ^ 0xffffffff) >>> 0), checkChars)
}

function bigOf(bytes: Uint8Array): bigint {
  return bytes.reduce((sum, byte) => sum * 256n + BigInt(byte), 0n)
}

function base62(value: bigint, length: number): string {
  let text = ''
  let rest = value
  for (let at = 0; at < length; at++) {
    text = digits[Number(rest % 62n)] + text
    rest /= 62n
  }
  return text
}
