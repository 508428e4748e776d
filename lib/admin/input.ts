import { type Timestamp, timestampDate, timestampFromMs } from '@bufbuild/protobuf/wkt'
import type { Digest } from '../oci/digest.ts'
import { ociError } from '../oci/errors.ts'
import { parseRepositoryName, parseTag, type RepositoryName, type Tag } from '../oci/names.ts'

/** A refusal of an input: what it is, and what it should be. */
export function invalid(field: string, expected: string): Error {
  return ociError('INVALID', { field, expected }, { message: `${field}: ${expected}` })
}

export interface AdminPage {
  limit: number
  after: string
  offset: number
}

const pageDefault = 50
const pageMax = 1000

/** Errors: INVALID. */
export function parseAdminPage(input: { n: number; after: string; offset?: number }): AdminPage {
  const { n, after, offset = 0 } = input
  if (n < 0 || n > pageMax) throw invalid('n', `a whole number from 1 to ${pageMax}`)
  if (offset < 0 || offset > 1_000_000) throw invalid('offset', 'a whole number from 0 to 1000000')
  if (after.length > 1024) throw invalid('after', 'the `next` of the page before')
  return { limit: n === 0 ? pageDefault : n, after, offset }
}

/** `after` of lists that go by number. Errors: INVALID. */
export function parseNumberAfter(after: string, byDefault: number): number {
  if (after === '') return byDefault
  if (!/^[0-9]{1,15}$/.test(after)) throw invalid('after', 'the `next` of the page before')
  return Number(after)
}

/** One more row than asked says whether there is a next page. */
export function cutPage<T>(rows: readonly T[], limit: number, key: (row: T) => string | number): { rows: T[]; next: string } {
  const page = rows.slice(0, limit)
  const last = page.at(-1)
  return { rows: page, next: rows.length > limit && last !== undefined ? String(key(last)) : '' }
}

const units: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 }

/** A duration such as 30d in ms. Errors: INVALID. */
export function parseDuration(field: string, text: string): number {
  const match = /^([0-9]{1,6})([smhdw])$/.exec(text)
  if (!match) throw invalid(field, 'a duration such as 30m, 12h, 90d, 4w')
  return Number(match[1]) * (units[match[2] as string] as number)
}

export const stamp = (ms: number): Timestamp => timestampFromMs(ms)
export const stampOrNone = (ms: number | null | undefined): Timestamp | undefined =>
  ms === null || ms === undefined ? undefined : timestampFromMs(ms)

/** ms since 1970, or undefined. Errors: INVALID for a time that no clock shows. */
export function timeOf(field: string, value: Timestamp | undefined): number | undefined {
  if (!value) return undefined
  const ms = timestampDate(value).getTime()
  if (!Number.isFinite(ms)) throw invalid(field, 'a time in RFC 3339')
  return ms
}

/** Errors: NAME_INVALID. */
export const repositoryOf = (text: string): RepositoryName => parseRepositoryName(text)
/** Errors: MANIFEST_INVALID. */
export const tagOf = (text: string): Tag => parseTag(text)

/** Words people wrote for people: no control characters, not endless. Errors: INVALID. */
export function parseWords(field: string, text: string, most = 512): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (text.length > most || /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/.test(text))
    throw invalid(field, `at most ${most} characters, none of them a control character`)
  return text
}

/** Compare-and-swap. Errors: PRECONDITION with what the tag names. */
export function requireDigest(wanted: string, current: Digest | undefined): void {
  if (wanted === '' || wanted === current) return
  throw ociError(
    'PRECONDITION',
    { digest: current ?? null },
    { message: `the tag names ${current ?? 'nothing'}, not ${wanted.slice(0, 140)}` },
  )
}
