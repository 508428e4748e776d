import { readFileSync } from 'node:fs'
import { create, type DescField, type DescMessage, type MessageShape } from '@bufbuild/protobuf'
import { Command, InvalidArgumentError, Option } from 'commander'
import { comments } from '../../lib/admin/gen/comments.ts'
import { fromRest, isSwitch, toRest } from '../../lib/admin/json.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { formatAnswer, formatTable, listOf } from './print.ts'
import type { Transport } from './transport.ts'

export interface CliSession {
  transport: Transport
  json: boolean
  close(): Promise<void>
}
export type OpenSession = () => Promise<CliSession>

const units: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 }

/**
 * Adds a command for an operation: fields named in `cli.args` by their place, every other one as a flag, which takes several values where
 * the field is a list. Times are RFC 3339 or a duration: before now, after now for what expires.
 */
export function addOperation(program: Command, operation: Operation, open: OpenSession): void {
  const { cli, summary, method } = operation
  const words = cli.words.split(' ')
  const parent = words.slice(0, -1).reduce((at, word) => groupOf(at, word), program)
  const command = new Command(words.at(-1)).description(summary)
  const args = cli.args ?? []
  for (const name of args) {
    const field = fieldOf(operation, name)
    const label = name.replaceAll('_', '-')
    const optional = commentOf(field).includes('empty: ')
    command.argument(field.fieldKind === 'list' ? `[${label}...]` : optional ? `[${label}]` : `<${label}>`, commentOf(field))
  }
  const flags = flagsOf(method.input.fields.filter((field) => !args.includes(field.name)))
  for (const { name, field } of flags) command.addOption(optionOf(name, field))
  command.action(async (...given: unknown[]) => {
    const options = given[args.length] as Record<string, unknown>
    const input: Record<string, unknown> = {}
    for (const [at, name] of args.entries()) if (given[at] !== undefined) input[name] = given[at]
    for (const { name, path } of flags) {
      const value = options[name.replace(/-(\w)/g, (_all, char: string) => char.toUpperCase())]
      if (value !== undefined) place(input, path, value)
    }
    await runOperation(operation, fromRest(method.input, input), open)
  })
  parent.addCommand(command)
}

/** Runs an operation and prints its answer; lists are read to their end, page by page, unless a number was asked. */
export async function runOperation(operation: Operation, input: MessageShape<DescMessage>, open: OpenSession): Promise<void> {
  const session = await open()
  try {
    if (operation.stream) return await printStream(operation, input, session)
    const message = await readAll(operation, input, session.transport)
    if (session.json) console.log(JSON.stringify(toRest(operation.method.output, message), null, 2))
    else process.stdout.write(formatAnswer(operation, message) || 'done\n')
    const { ok, run } = message as unknown as { ok?: boolean; run?: { error?: string } }
    if (ok === false || run?.error) process.exitCode = 1
  } finally {
    await session.close()
  }
}

async function readAll(
  operation: Operation,
  input: MessageShape<DescMessage>,
  transport: Transport,
): Promise<MessageShape<DescMessage>> {
  const list = listOf(operation)
  const page = input as unknown as { n?: number; after?: string }
  const fields = operation.method.input.fields.map((field) => field.name)
  if (!list || !fields.includes('n') || !fields.includes('after') || page.n || operation.cli.newest)
    return await transport.call(operation, input)
  const rows: unknown[] = []
  for (;;) {
    const message = (await transport.call(
      operation,
      create(operation.method.input, { ...input, ...page, n: 1000 } as never),
    )) as never as Record<string, unknown>
    rows.push(...(message[list.localName] as unknown[]))
    page.after = message.next as string
    if (page.after === '') return { ...message, [list.localName]: rows } as never
  }
}

async function printStream(
  operation: Operation,
  input: MessageShape<DescMessage>,
  { transport, json }: CliSession,
): Promise<void> {
  const [field] = operation.method.output.fields as [DescField]
  let headed = false
  for await (const message of transport.stream(operation, input)) {
    const row = toRest(operation.method.output, message)[field.name] as Record<string, unknown>
    if (json || !operation.cli.columns) process.stdout.write(`${JSON.stringify(row)}\n`)
    else {
      const lines = formatTable(operation.cli.columns, [row]).split('\n')
      if (!headed) process.stdout.write(`${lines[0]}\n`)
      headed = true
      process.stdout.write(`${lines[1]}\n`)
    }
  }
}

function groupOf(program: Command, word: string): Command {
  const found = program.commands.find((command) => command.name() === word)
  if (found) return found
  const made = new Command(word).description(groups[word] ?? word)
  program.addCommand(made)
  return made
}

const groups: Readonly<Record<string, string>> = {
  account: 'accounts',
  audit: 'the journal: who did what',
  gc: 'garbage collection',
  keys: 'keys that sign registry tokens',
  manifest: 'manifests',
  policy: 'rules: who may do what',
  repo: 'repositories',
  robot: 'accounts for machines, each with a token and a rule of its own',
  role: 'roles of accounts',
  tag: 'tags, their history, and moving them',
  token: 'personal tokens',
  trust: 'issuers whose ID tokens are exchanged, for CI without stored secrets',
}

const fieldOf = (operation: Operation, name: string): DescField => {
  const field = operation.method.input.fields.find((entry) => entry.name === name)
  if (!field) throw new Error(`${operation.method.name} has no field ${name}`)
  return field
}
const commentOf = (field: DescField) => comments[`${field.parent.name}.${field.name}`] ?? ''

interface Flag {
  name: string
  path: readonly string[]
  field: DescField
}

/** One flag a field; the fields of a message within, such as `except`, get flags of their own. Lists of messages have none. */
function flagsOf(fields: readonly DescField[], before: readonly string[] = []): Flag[] {
  return fields.flatMap((field) => {
    const path = [...before, field.name]
    if (field.fieldKind === 'list' && field.listKind === 'message') return []
    if (field.fieldKind === 'message' && field.message.typeName !== 'google.protobuf.Timestamp')
      return flagsOf(field.message.fields, path)
    return [{ name: path.join('-').replaceAll('_', '-'), path, field }]
  })
}

function optionOf(name: string, field: DescField): Option {
  const time = field.fieldKind === 'message'
  const help = [commentOf(field), time ? 'RFC 3339, or a duration such as 30d' : ''].filter(Boolean).join('; ')
  if (isSwitch(field)) return new Option(`--${name} [value]`, help).preset(true).argParser((text) => asSwitch(text))
  if (field.fieldKind === 'list') return new Option(`--${name} <value...>`, help)
  // A log is too long for a command line.
  if (field.name === 'checkpoints') return new Option(`--${name} <file>`, help).argParser((file) => readFileSync(file, 'utf8'))
  return new Option(`--${name} <${time ? 'time' : 'value'}>`, help).argParser((text) => (time ? asTime(name, text) : text))
}

function asSwitch(text: unknown): boolean {
  if (text === true || text === 'true') return true
  if (text === 'false') return false
  throw new InvalidArgumentError('true or false')
}

function asTime(name: string, text: string): string {
  const match = /^(\d{1,6})([smhdw])$/.exec(text)
  const ms = match ? Number(match[1]) * (units[match[2] as string] as number) : 0
  const time = match ? new Date(Date.now() + (name.startsWith('expires') ? ms : -ms)) : new Date(text)
  if (Number.isNaN(time.getTime()))
    throw new InvalidArgumentError('a time such as 2026-01-31T12:00:00Z, or a duration such as 30d')
  return time.toISOString()
}

function place(input: Record<string, unknown>, path: readonly string[], value: unknown): void {
  let at = input
  for (const name of path.slice(0, -1)) {
    at[name] ??= {}
    at = at[name] as Record<string, unknown>
  }
  at[path.at(-1) as string] = value
}
