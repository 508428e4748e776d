import type { DescField, DescMessage, MessageShape } from '@bufbuild/protobuf'
import { toRest } from '../../lib/admin/json.ts'
import type { Operation } from '../../lib/admin/operation.ts'

/** What a person reads of an answer: a table of its list, or its fields line by line. */
export function formatAnswer(operation: Operation, message: MessageShape<DescMessage>): string {
  const { output } = operation.method
  const fields = toRest(output, message)
  const list = listOf(operation)
  if (!list) return formatFields(fields)
  const rows = fields[list.name] as Record<string, unknown>[]
  const columns = operation.cli.columns ?? []
  const others = Object.entries(fields).filter(([name]) => name !== list.name && name !== 'next')
  const tail = others.length > 0 ? `\n${formatFields(Object.fromEntries(others))}` : ''
  return `${formatTable(columns, rows)}${tail}`
}

/** The list that an answer is about, where the operation shows one as a table. */
export function listOf({ method, cli }: Operation): DescField | undefined {
  return cli.columns
    ? method.output.fields.find((field) => field.fieldKind === 'list' && field.listKind === 'message')
    : undefined
}

/** Rows under headings, each column as wide as it must be. */
export function formatTable(columns: readonly string[], rows: readonly Record<string, unknown>[]): string {
  if (rows.length === 0) return 'none\n'
  const lines = [
    columns.map((name) => name.replace(/_(at|count)$/, '').toUpperCase()),
    ...rows.map((row) => columns.map((name) => show(name, row[name]))),
  ]
  const widths = columns.map((_name, at) => Math.max(...lines.map((line) => (line[at] as string).length)))
  return lines
    .map(
      (line) =>
        `${line
          .map((cell, at) => cell.padEnd(widths[at] as number))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('')
}

function formatFields(fields: Record<string, unknown>, indent = ''): string {
  const told = indent === '' ? inlined(fields) : fields
  const width = Math.max(16, ...Object.entries(told).map(([name, value]) => (isFields(value) ? 0 : name.length + 1)))
  let text = ''
  for (const [name, value] of Object.entries(told)) {
    if (Array.isArray(value) && typeof value[0] === 'object')
      text += `${indent}${name}:\n${value.map((entry) => formatFields(entry as Record<string, unknown>, `${indent}  `)).join(`${indent}  --\n`)}`
    else if (isFields(value)) text += `${indent}${name}:\n${formatFields(value, `${indent}  `)}`
    else {
      const shown = show(name, value)
      if (shown === '') continue
      text += shown.includes('\n') ? `${indent}${name}:\n${shown}\n` : `${indent}${`${name}:`.padEnd(width)} ${shown}\n`
    }
  }
  return text
}

/** An answer that is hardly more than one record is that record. */
function inlined(fields: Record<string, unknown>): Record<string, unknown> {
  if (Object.keys(fields).length > 2) return fields
  return Object.assign(
    {},
    ...Object.entries(fields).map(([name, value]) => (isFields(value) ? inlined(value) : { [name]: value })),
  )
}

const isFields = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function show(name: string, value: unknown): string {
  if (value === undefined || value === null) return ''
  if (Array.isArray(value)) return value.join(',')
  if (
    typeof value === 'number' &&
    /^(size|unique|shared|stored|blob_bytes|released|freed_now|bytes_freed|file_bytes_freed|file_bytes_shared)$/.test(name)
  )
    return bytes(value)
  if (typeof value === 'string' && /_at$|_time$|^at$|^free_(after|since)$/.test(name)) return value.replace(/\.\d+Z$/, 'Z')
  return String(value)
}

/** A number of bytes as a person reads it. */
export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = count
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}
