import type { DescField, DescMessage } from '@bufbuild/protobuf'
import { comments } from '../../lib/admin/gen/comments.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { operations } from '../../lib/admin/operations.ts'

const services: Readonly<Record<string, string>> = {
  AdminService: 'Accounts, tokens and the registry itself',
  RegistryService: 'Repositories, tags and manifests',
  StorageService: 'What is stored',
  PolicyService: 'Rules',
  AuditService: 'The journal',
}

/** docs/api.md: every operation with its three faces, made of the table that they are made of. */
export function documentApi(): string {
  const parts = [
    `# The administration

One table of operations has three faces: REST under \`/v1\`, the RPC services \`mcr.v1\` over Connect, gRPC-Web and gRPC, and the command line \`mcr\`
(also installed as \`mcrctl\`). What is allowed through one is allowed through all; every change is in the journal.

**Credentials.** \`Authorization: Bearer\` with a login (\`POST /v1/auth/login\`), a personal or a robot token; or Basic with a name and a password
or such a token; or a browser's session (then what changes something needs \`Origin\` and \`X-CSRF-Token\`; never for RPC). Registry tokens
of \`/v2/token\` open \`/v2\` only.

**REST.** Input comes by path, query (GET, DELETE) or JSON body; unknown fields are refused. Repository names stand in the path as they are
and end with \`/-/\` where something follows. Times are RFC 3339. Lists are pages: \`n\` entries (50 unless said, 1000 at most), then \`after\` with
the \`next\` of the page before; \`offset\` works as well. A failure is \`{"error": "…", "code": "…"}\`: 400 wrong input, 401 not logged in,
403 not allowed, 404 no such thing, 409 not as the request takes it to be, 410 gone, 412 a condition that does not hold, 429 too many, 503
and 507 try again. \`GET /v1/openapi.json\` is the OpenAPI document.

**RPC.** The protos are in \`lib/admin/proto\`; requests go to \`/mcr.v1.<Service>/<Method>\`. With TLS the main port speaks gRPC too; on plain HTTP
it needs \`server.grpc_addr\`. There is no reflection service. \`server.admin_addr\` moves all of this to a listener of its own.

**Command line.** \`--server\`, \`--grpc\` and \`--token\` (or \`mcr login\`) name a registry elsewhere; without them the database of this host's
configuration is opened. \`--json\` prints what REST answers. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not logged in or not allowed,
4 no such thing, 5 not in the state that was taken for granted, 6 cannot be reached or busy, 7 what is stored is damaged.
`,
  ]
  for (const [service, title] of Object.entries(services)) {
    parts.push(`## ${title}\n`)
    for (const operation of operations.filter(({ method }) => method.parent.name === service)) parts.push(describe(operation))
  }
  return `${parts.join('\n')}`
}

function describe(operation: Operation): string {
  const { method, rest, cli, summary, action } = operation
  const needs =
    action === 'public'
      ? 'nothing'
      : action === 'authenticated'
        ? 'to be logged in'
        : typeof action === 'function'
          ? `${actionOf(operation)} on the repository`
          : `\`${action}\``
  const args = (cli.args ?? []).map((name) => `<${name.replaceAll('_', '-')}>`)
  const lines = [
    `### ${method.name}\n`,
    `${summary[0]?.toUpperCase()}${summary.slice(1)}. Needs ${needs}.\n`,
    `- REST \`${rest.method} ${rest.path.replace(/:(\w+)\+?/g, '{$1}')}\` → ${rest.status ?? 200}${operation.stream ? ', JSON Lines' : ''}`,
    `- RPC \`${method.parent.typeName}/${method.name}\`${operation.stream ? ' (server stream)' : ''}`,
    `- \`${['mcr', cli.words, ...args].join(' ')}\``,
  ]
  if (method.input.fields.length > 0) lines.push(`\nInput: ${fieldsOf(method.input)}.`)
  if (method.output.fields.length > 0) lines.push(`\nAnswer: ${fieldsOf(method.output)}.`)
  return `${lines.join('\n')}\n`
}

/** What a demand asks for, of a repository that stands for any. */
function actionOf({ action }: Operation): string {
  if (typeof action !== 'function') return ''
  return action({ repository: 'any' } as never)
    .map(({ anyOf }) => anyOf.map((name) => `\`${name}\``).join(' or '))
    .join(' and ')
}

function fieldsOf(message: DescMessage): string {
  return message.fields.map((field) => `\`${field.name}\`${typeOf(field)}${commentOf(field)}`).join(', ')
}

function commentOf(field: DescField): string {
  const comment = comments[`${field.parent.name}.${field.name}`]
  return comment ? ` (${comment})` : ''
}

function typeOf(field: DescField): string {
  const message = 'message' in field ? field.message : undefined
  const inner =
    message && message.typeName !== 'google.protobuf.Timestamp'
      ? ` {${message.fields.map((entry) => entry.name).join(', ')}}`
      : ''
  return field.fieldKind === 'list' ? `${inner}…` : inner
}
