import { type DescField, type DescMessage, fromJson, type JsonValue, type Message, type MessageShape } from '@bufbuild/protobuf'
import { type Timestamp, timestampDate } from '@bufbuild/protobuf/wkt'
import { ociError } from '../oci/errors.ts'

/**
 * A message as REST has it: the proto's own field names, whole numbers as numbers, times in RFC 3339. What has no presence is always
 * there, what has and is absent is left out.
 */
export function toRest<Desc extends DescMessage>(desc: Desc, message: MessageShape<Desc>): Record<string, unknown> {
  const out: Record<string, unknown> = {}
  const fields = message as unknown as Record<string, unknown>
  for (const field of desc.fields) {
    const value = fields[field.localName]
    if (value === undefined) continue
    out[field.name] = field.fieldKind === 'list' ? (value as unknown[]).map((entry) => plain(field, entry)) : plain(field, value)
  }
  return out
}

function plain(field: DescField, value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value)
  const message = 'message' in field ? field.message : undefined
  if (!message) return value
  if (message.typeName === 'google.protobuf.Timestamp') return timestampDate(value as Timestamp).toISOString()
  return toRest(message, value as Message as never)
}

/** A message of REST's form. Errors: INVALID, naming the field that is unknown or of another type. */
export function fromRest<Desc extends DescMessage>(desc: Desc, value: unknown): MessageShape<Desc> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw ociError('INVALID', undefined, { message: 'the body is no JSON object' })
  try {
    return fromJson(desc, value as JsonValue)
  } catch (error) {
    const { message } = error as Error
    const why = message.replace(/^cannot decode (message )?\S+ ?(from JSON: )?/, '').replaceAll('mcr.v1.', '')
    throw ociError('INVALID', undefined, { message: why.slice(0, 300) })
  }
}

/** The values of a query or of a command line, as texts, in REST's form. Errors: INVALID for an unknown name. */
export function fromTexts(desc: DescMessage, texts: Iterable<readonly [name: string, value: string]>): Record<string, unknown> {
  const out: Record<string, unknown> = {}
  for (const [name, value] of texts) {
    const field = desc.fields.find((entry) => entry.name === name)
    if (!field || (field.fieldKind === 'message' && field.message.typeName !== 'google.protobuf.Timestamp'))
      throw ociError('INVALID', undefined, {
        message: `unknown parameter ${JSON.stringify(name.slice(0, 64))}; there are ${desc.fields.map((entry) => entry.name).join(', ') || 'none'}`,
      })
    if (field.fieldKind === 'list') out[name] = [...((out[name] as unknown[] | undefined) ?? []), value]
    else if (out[name] !== undefined) throw ociError('INVALID', undefined, { message: `${name} stands more than once` })
    else out[name] = isSwitch(field) ? asSwitch(name, value) : value
  }
  return out
}

export const isSwitch = (field: DescField): boolean => field.fieldKind === 'scalar' && field.scalar === 8

function asSwitch(name: string, value: string): boolean {
  if (value === 'true' || value === '') return true
  if (value === 'false') return false
  throw ociError('INVALID', undefined, { message: `${name} is true or false` })
}
