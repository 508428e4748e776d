import { isIP } from 'node:net'
import { parseListen } from './addresses.ts'
import type { Kind } from './config-keys.ts'

export type Value = string | number | boolean | readonly string[]

const durationUnits: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
}

/** Strictly: what the matcher alone would take as well are octal and short forms, which mean other addresses than they seem to. */
function isNetwork(text: string): boolean {
  const [, address, bits] = /^([^/]+)(?:\/([0-9]{1,3}))?$/.exec(text) ?? []
  const family = isIP(address ?? '')
  if (family === 0 || /^::ffff:/i.test(text) || text.includes('%')) return false
  return bits === undefined || Number(bits) <= (family === 4 ? 32 : 128)
}

/** A value of the file or of a variable as its kind reads it. Shape: the value, or an Error that says what was expected. */
export function parseValue(kind: Kind, raw: unknown): Value | Error {
  const text = typeof raw === 'number' || typeof raw === 'bigint' || typeof raw === 'boolean' ? String(raw) : raw
  if (kind === 'list' || kind === 'networks') {
    const list = Array.isArray(raw)
      ? raw.map(String)
      : typeof text === 'string'
        ? text
            .split(',')
            .map((entry) => entry.trim())
            .filter(Boolean)
        : undefined
    if (!list) return new Error('a list of texts')
    if (kind === 'networks')
      for (const entry of list)
        if (!isNetwork(entry)) return new Error(`addresses or networks such as 10.0.0.0/8; ${entry} is none`)
    return list
  }
  if (typeof text !== 'string') return new Error('a single value')
  if (Array.isArray(kind)) return kind.includes(text) ? text : new Error(`one of ${kind.join(', ')}`)
  switch (kind) {
    case 'switch':
      return text === 'true' ? true : text === 'false' ? false : new Error('true or false')
    case 'count':
      return /^[0-9]{1,12}$/.test(text) ? Number(text) : new Error('a whole number')
    case 'workers':
      return text === 'auto' || /^([1-9]|[1-9][0-9]|1[01][0-9]|12[0-8])$/.test(text)
        ? text
        : new Error('auto, or a number from 1 to 128')
    case 'duration': {
      const match = /^([0-9]{1,9})(ms|s|m|h|d)$/.exec(text)
      return match
        ? Number(match[1]) * (durationUnits[match[2] as string] as number)
        : new Error('a duration such as 30s, 5m, 24h')
    }
    case 'size': {
      const match = /^([0-9]{1,15}) ?([KMGT]?I?B|)$/.exec(text.toUpperCase())
      const unit = match && sizeUnits[match[2] as string]
      return match && unit !== undefined && unit !== null ? Number(match[1]) * unit : new Error('a size such as 512MiB, 4GB')
    }
    case 'url':
      return /^https?:\/\/[A-Za-z0-9.:[\]_-]+(\/[^?#]*)?$/.test(text)
        ? text.replace(/\/+$/, '')
        : new Error('an http or https address without query')
    case 'listen':
      try {
        if (!text.startsWith('unix:/')) parseListen(text)
        return text
      } catch {
        return new Error('host:port, :port or unix:/path')
      }
    default:
      return text
  }
}
