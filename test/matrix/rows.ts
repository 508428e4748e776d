import type { Operation } from '../../lib/admin/operation.ts'
import { operations } from '../../lib/admin/operations.ts'
import { ociManifest, pushBlob, pushImage, putManifest, sha256 } from '../support/oci.ts'
import type { TestRegistry } from '../support/registry.ts'
import { admin } from './columns.ts'

export interface Sent {
  method: string
  path: string
  body?: string
  headers?: Record<string, string>
}

/** One line of the matrix: a request, and the status for each column. `route` is the line of the route table that it stands for. */
export interface Row {
  name: string
  route: string
  expected: Record<string, number>
  /** Puts things where the request finds them; runs before each cell. */
  prepare?(registry: TestRegistry): Promise<Record<string, string>>
  send(found: Record<string, string>): Sent
  /** Of a page of names, those that a column may see. */
  lists?: 'repositories'
}

const letters = [...'AURCWDOBTXKSNM']
/** Statuses in the order of the columns A U R C W D O B T X K S N M. */
const cells = (text: string): Record<string, number> =>
  Object.fromEntries(
    text
      .trim()
      .split(/\s+/)
      .map((status, at) => [letters[at], Number(status)]),
  )

const tagged = JSON.stringify({
  schemaVersion: 2,
  mediaType: ociManifest,
  config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: sha256('{}'), size: 2 },
  layers: [],
  annotations: { n: '1' },
})
const another = tagged.replace('"1"', '"2"')
const secretBlob = 'only in priv/secret'
const looseBlob = 'nothing names it'
const uploads = '/v2/priv/app/blobs/uploads/'

/** What stands in the registry while the matrix runs. */
export async function makeFixtures(registry: TestRegistry): Promise<void> {
  for (const name of ['pub/app', 'priv/app', 'priv/secret']) await pushImage(registry, name, 'v1')
  await pushBlob(registry, 'priv/secret', secretBlob)
  await tagV1(registry)
}

async function tagV1(registry: TestRegistry): Promise<Record<string, string>> {
  await pushBlob(registry, 'priv/app', '{}')
  await putManifest(registry, 'priv/app', 'v1', tagged)
  await registry.fetch('DELETE', '/v2/priv/app/manifests/fresh')
  return { digest: sha256(tagged) }
}

/** One upload of the admin's under way, and no other. */
async function openUpload(registry: TestRegistry): Promise<Record<string, string>> {
  await registry.sql('DELETE FROM uploads')
  const response = await registry.fetch('POST', uploads)
  return { location: response.headers.get('location') as string }
}

const manifest = (path: string, text = tagged): Sent => ({
  method: 'PUT',
  path,
  body: text,
  headers: { 'content-type': ociManifest },
})
const get = (path: string) => () => ({ method: 'GET', path })
const head = (path: string) => () => ({ method: 'HEAD', path })

//                                    A   U   R   C   W   D   O   B   T   X   K   S   N   M
const everybody = cells('200 200 200 200 200 200 200 200 200 200 200 200 200 200')
const readers = cells('401 403 200 200 200 200 200 200 200 401 401 401 401 200')

const ociRows: Row[] = [
  {
    name: 'GET /v2/',
    route: 'GET /v2/',
    expected: cells('401 200 200 200 200 200 200 200 200 401 401 401 401 200'),
    send: get('/v2/'),
  },
  {
    name: 'GET manifest pub/app',
    route: 'GET /v2/:name+/manifests/:reference',
    expected: cells('200 200 200 200 200 200 200 200 200 401 401 200 200 200'),
    send: get('/v2/pub/app/manifests/v1'),
  },
  {
    name: 'GET manifest priv/app',
    route: 'GET /v2/:name+/manifests/:reference',
    expected: readers,
    prepare: tagV1,
    send: get('/v2/priv/app/manifests/v1'),
  },
  {
    name: 'GET manifest priv/none (absent)',
    route: 'GET /v2/:name+/manifests/:reference',
    expected: cells('401 403 404 404 404 404 404 403 404 401 401 401 401 404'),
    send: get('/v2/priv/none/manifests/v1'),
  },
  {
    name: 'HEAD blob priv/app',
    route: 'GET /v2/:name+/blobs/:digest',
    expected: readers,
    prepare: tagV1,
    send: head(`/v2/priv/app/blobs/${sha256('{}')}`),
  },
  {
    name: 'HEAD blob priv/app, only in priv/secret',
    route: 'GET /v2/:name+/blobs/:digest',
    expected: cells('401 403 404 404 404 404 404 404 404 401 401 401 401 404'),
    send: head(`/v2/priv/app/blobs/${sha256(secretBlob)}`),
  },
  {
    name: 'GET tags priv/app',
    route: 'GET /v2/:name+/tags/list',
    expected: readers,
    prepare: tagV1,
    send: get('/v2/priv/app/tags/list'),
  },
  {
    name: 'GET referrers priv/app',
    route: 'GET /v2/:name+/referrers/:digest',
    expected: readers,
    send: get(`/v2/priv/app/referrers/${sha256(tagged)}`),
  },
  {
    name: 'POST upload priv/app',
    route: 'POST /v2/:name+/blobs/uploads/',
    expected: cells('401 403 403 202 202 403 202 202 401 401 401 401 401 202'),
    prepare: openUpload,
    send: () => ({ method: 'POST', path: uploads }),
  },
  {
    name: "PATCH another's upload",
    route: 'PATCH /v2/:name+/blobs/uploads/:uploadId',
    expected: cells('401 403 403 404 404 403 404 404 401 401 401 401 401 202'),
    prepare: openUpload,
    send: ({ location }) => ({ method: 'PATCH', path: location as string, body: 'x' }),
  },
  {
    name: "PUT another's upload",
    route: 'PUT /v2/:name+/blobs/uploads/:uploadId',
    expected: cells('401 403 403 404 404 403 404 404 401 401 401 401 401 201'),
    prepare: openUpload,
    send: ({ location }) => ({ method: 'PUT', path: `${location}?digest=${sha256('y')}`, body: 'y' }),
  },
  {
    name: "GET another's upload",
    route: 'GET /v2/:name+/blobs/uploads/:uploadId',
    expected: cells('401 403 404 404 404 404 404 404 404 401 401 401 401 204'),
    prepare: openUpload,
    send: ({ location }) => ({ method: 'GET', path: location as string }),
  },
  {
    name: "DELETE another's upload",
    route: 'DELETE /v2/:name+/blobs/uploads/:uploadId',
    expected: cells('401 403 403 404 404 403 404 404 401 401 401 401 401 204'),
    prepare: openUpload,
    send: ({ location }) => ({ method: 'DELETE', path: location as string }),
  },
  {
    name: 'PUT manifest, new tag',
    route: 'PUT /v2/:name+/manifests/:reference',
    expected: cells('401 403 403 201 201 403 201 201 401 401 401 401 401 201'),
    prepare: tagV1,
    send: () => manifest('/v2/priv/app/manifests/fresh'),
  },
  {
    name: 'PUT manifest, existing tag',
    route: 'PUT /v2/:name+/manifests/:reference',
    expected: cells('401 403 403 403 201 403 201 403 401 401 401 401 401 201'),
    prepare: tagV1,
    send: () => manifest('/v2/priv/app/manifests/v1', another),
  },
  {
    name: 'PUT manifest by digest, ?tag=existing',
    route: 'PUT /v2/:name+/manifests/:reference',
    expected: cells('401 403 403 403 201 403 201 403 401 401 401 401 401 201'),
    prepare: tagV1,
    send: () => manifest(`/v2/priv/app/manifests/${sha256(another)}?tag=v1`, another),
  },
  {
    name: 'DELETE tag',
    route: 'DELETE /v2/:name+/manifests/:reference',
    expected: cells('401 403 403 403 403 202 202 403 403 401 401 401 401 202'),
    prepare: tagV1,
    send: () => ({ method: 'DELETE', path: '/v2/priv/app/manifests/v1' }),
  },
  {
    name: 'DELETE manifest',
    route: 'DELETE /v2/:name+/manifests/:reference',
    expected: cells('401 403 403 403 403 202 202 403 403 401 401 401 401 202'),
    prepare: tagV1,
    send: ({ digest }) => ({ method: 'DELETE', path: `/v2/priv/app/manifests/${digest}` }),
  },
  {
    name: 'DELETE blob',
    route: 'DELETE /v2/:name+/blobs/:digest',
    expected: cells('401 403 403 403 403 202 202 403 403 401 401 401 401 202'),
    prepare: async (registry) => ({ digest: await pushBlob(registry, 'priv/app', looseBlob) }),
    send: ({ digest }) => ({ method: 'DELETE', path: `/v2/priv/app/blobs/${digest}` }),
  },
  {
    name: 'mount from priv/secret',
    route: 'POST /v2/:name+/blobs/uploads/',
    expected: cells('401 403 403 201 201 403 201 202 401 401 401 401 401 201'),
    prepare: unmounted,
    send: () => ({ method: 'POST', path: `${uploads}?mount=${sha256(secretBlob)}&from=priv/secret` }),
  },
  {
    name: 'GET _catalog',
    route: 'GET /v2/_catalog',
    expected: cells('401 200 200 200 200 200 200 200 401 401 401 401 401 200'),
    lists: 'repositories',
    send: get('/v2/_catalog'),
  },
  {
    name: 'GET token',
    route: 'GET /v2/token',
    expected: cells('200 200 200 200 200 200 200 200 401 401 401 200 401 200'),
    send: get('/v2/token?scope=repository:priv/app:pull'),
  },
  {
    name: 'POST token without a login',
    route: 'POST /v2/token',
    expected: cells('400 400 400 400 400 400 400 400 400 400 400 400 400 400'),
    send: () => ({ method: 'POST', path: '/v2/token', body: 'grant_type=none' }),
  },
  { name: 'GET /livez', route: 'GET /livez', expected: everybody, send: get('/livez') },
  { name: 'GET /readyz', route: 'GET /readyz', expected: everybody, send: get('/readyz') },
  {
    name: 'GET /metrics',
    route: 'GET /metrics',
    expected: cells('401 403 403 403 403 403 403 403 401 401 401 403 401 200'),
    send: get('/metrics'),
  },
  {
    name: 'GET sso start (not configured)',
    route: 'GET /auth/oidc/sso/start',
    expected: cells('404 404 404 404 404 404 404 404 404 404 404 404 404 404'),
    send: get('/auth/oidc/sso/start'),
  },
  {
    name: 'GET sso callback (not configured)',
    route: 'GET /auth/oidc/sso/callback',
    expected: cells('404 404 404 404 404 404 404 404 404 404 404 404 404 404'),
    send: get('/auth/oidc/sso/callback'),
  },
  { name: 'GET openapi.json', route: 'GET /v1/openapi.json', expected: everybody, send: get('/v1/openapi.json') },
]

async function unmounted(registry: TestRegistry): Promise<Record<string, string>> {
  await registry.sql(
    `DELETE FROM repo_blobs WHERE digest = ? AND repo_id = (SELECT id FROM repositories WHERE name = 'priv/app')`,
    [sha256(secretBlob)],
  )
  return await openUpload(registry)
}

/** What each operation is asked, and who may: by what it does, not by what the code says of it. */
type Kind = 'public' | 'somebody' | 'manage' | 'read' | 'overwrite' | 'delete' | 'own'
interface Asked {
  kind: Kind
  status?: number
  body?: object
  params?: Record<string, string>
  prepare?: Row['prepare']
}

const rule = { effect: 'deny', actions: ['registry:pull'], repositories: ['matrix/**'], description: 'matrix' }
const inApp = { repository: 'priv/app' }
const made = (path: string, body: object, pick: (answer: never) => string | number) => async (registry: TestRegistry) => ({
  made: String(pick((await admin(registry, 'POST', path, body)) as never)),
})
const once =
  (path: string, body: object, name: string) =>
  async (registry: TestRegistry): Promise<Record<string, string>> => {
    await registry.fetch('DELETE', `${path}/${name}`)
    await admin(registry, 'POST', path, body)
    return {}
  }
const victim = once('/v1/accounts', { name: 'victim', password: 'something long' }, 'victim')
const robot = once('/v1/robots', { name: 'victim-robot', actions: ['registry:pull'] }, 'victim-robot')
const nobodyElse = async (registry: TestRegistry) => {
  for (const path of ['/v1/accounts/newcomer', '/v1/robots/new-robot']) await registry.fetch('DELETE', path)
  return {}
}
const removable = async (registry: TestRegistry) => {
  await pushImage(registry, 'priv/app', 'v9')
  return await tagV1(registry)
}
const trust = {
  issuer: 'https://issuer.example',
  audience: 'mcr',
  claims: ['repository=team/app'],
  actions: ['registry:pull'],
  repositories: ['team/**'],
}

export const asked: Readonly<Record<string, Asked>> = {
  Health: { kind: 'public' },
  GetStatus: { kind: 'manage' },
  Login: { kind: 'public', body: { username: 'admin', password: 'correct horse battery staple' } },
  Logout: { kind: 'somebody', status: 204 },
  WhoAmI: { kind: 'somebody' },
  RotateKeys: { kind: 'manage' },
  ListRepositories: { kind: 'somebody' },
  GetRepository: { kind: 'read', params: inApp, prepare: tagV1 },
  DeleteRepository: { kind: 'own', params: inApp, prepare: tagV1 },
  ListTags: { kind: 'read', params: inApp, prepare: tagV1 },
  GetTag: { kind: 'read', params: { ...inApp, tag: 'v1' }, prepare: tagV1 },
  ListTagHistory: { kind: 'read', params: { ...inApp, tag: 'v1' }, prepare: tagV1 },
  MoveTag: { kind: 'overwrite', params: { ...inApp, tag: 'v1' }, body: { to: sha256(another) }, prepare: moved },
  DeleteTag: { kind: 'delete', params: { ...inApp, tag: 'v1' }, prepare: tagV1 },
  GetManifest: { kind: 'read', params: { ...inApp, reference: 'v1' }, prepare: tagV1 },
  DeleteManifest: { kind: 'delete', params: { ...inApp, digest: sha256(tagged) }, prepare: tagV1 },
  Undelete: { kind: 'own', params: inApp, body: { reference: 'v1' }, prepare: untagged },
  GetUsage: { kind: 'manage' },
  ExplainDigest: { kind: 'manage', params: { digest: sha256(tagged) } },
  Purge: { kind: 'somebody', body: { keep: 1000 }, prepare: removable },
  RunGarbageCollection: { kind: 'manage', status: 202, body: { dry_run: true }, prepare: noRun },
  ReconcileStorage: { kind: 'manage', status: 202, body: { dry_run: true }, prepare: noRun },
  GetGarbageCollectionStatus: { kind: 'manage' },
  PauseGarbageCollection: { kind: 'manage', prepare: resumed },
  ResumeGarbageCollection: { kind: 'manage', prepare: resumed },
  ListGarbageFindings: { kind: 'manage', params: { id: 'matrix' }, prepare: dryRun },
  VerifyStorage: { kind: 'manage' },
  RepairStorage: { kind: 'manage', body: { from: 'registry.invalid' } },
  ListRules: { kind: 'manage' },
  GetRule: { kind: 'manage', params: { id: '-1' } },
  CreateRule: { kind: 'manage', status: 201, body: rule },
  UpdateRule: {
    kind: 'manage',
    params: { id: '{made}' },
    body: { priority: 7 },
    prepare: made('/v1/policy/rules', rule, (answer: { rule: { id: number } }) => answer.rule.id),
  },
  DeleteRule: {
    kind: 'manage',
    status: 204,
    params: { id: '{made}' },
    prepare: made('/v1/policy/rules', rule, (answer: { rule: { id: number } }) => answer.rule.id),
  },
  ApplyRules: { kind: 'manage', body: { rules: [], dry_run: true } },
  TestPolicy: { kind: 'manage', body: { account: 'admin', action: 'registry:pull', repository: 'x' } },
  ReplayPolicy: { kind: 'manage', body: {} },
  ListEvents: { kind: 'manage' },
  StreamEvents: { kind: 'manage' },
  VerifyJournal: { kind: 'manage' },
  ListAccounts: { kind: 'manage' },
  GetAccount: { kind: 'manage', params: { account: 'admin' } },
  CreateAccount: { kind: 'manage', status: 201, body: { name: 'newcomer', password: 'something long' }, prepare: nobodyElse },
  UpdateAccount: { kind: 'manage', params: { account: 'victim' }, body: { disabled: true }, prepare: victim },
  DeleteAccount: { kind: 'manage', status: 204, params: { account: 'victim' }, prepare: victim },
  ListRoles: { kind: 'manage' },
  GrantRole: { kind: 'manage', params: { account: 'victim', role: 'reader' }, prepare: victim },
  RevokeRole: { kind: 'manage', params: { account: 'victim', role: 'user' }, prepare: victim },
  ListTokens: { kind: 'somebody' },
  CreateToken: { kind: 'somebody', status: 201, body: { name: 'x', expires_in: '1h' }, prepare: fewTokens },
  RevokeToken: {
    kind: 'manage',
    status: 204,
    params: { id: '{made}' },
    prepare: made('/v1/tokens', { name: 'matrix', expires_in: '1h' }, (answer: { token: { id: number } }) => answer.token.id),
  },
  ListRobots: { kind: 'manage' },
  CreateRobot: { kind: 'manage', status: 201, body: { name: 'new-robot', actions: ['registry:pull'] }, prepare: nobodyElse },
  RotateRobot: { kind: 'manage', params: { name: 'victim-robot' }, prepare: robot },
  DeleteRobot: { kind: 'manage', status: 204, params: { name: 'victim-robot' }, prepare: robot },
  ListTrusts: { kind: 'manage' },
  CreateTrust: { kind: 'manage', status: 201, body: trust },
  DeleteTrust: {
    kind: 'manage',
    status: 204,
    params: { id: '{made}' },
    prepare: made('/v1/trusts', trust, (answer: { trust: { id: number } }) => answer.trust.id),
  },
  ExchangeToken: { kind: 'public', status: 401, body: { id_token: 'no.such.token' } },
}

async function noRun(registry: TestRegistry): Promise<Record<string, string>> {
  await registry.sql(`DELETE FROM gc_runs`)
  return await resumed(registry)
}

async function resumed(registry: TestRegistry): Promise<Record<string, string>> {
  await registry.sql(`UPDATE gc_state SET paused_by = NULL, paused_at = NULL`)
  return {}
}

async function dryRun(registry: TestRegistry): Promise<Record<string, string>> {
  await registry.sql(
    `INSERT INTO gc_runs(id, kind, asked_at, asked_by, dry_run, skip_window, state) VALUES ('matrix', 'collect', 0, 'x', 1, 0, 'done')
     ON CONFLICT DO NOTHING`,
  )
  return {}
}

async function untagged(registry: TestRegistry): Promise<Record<string, string>> {
  await tagV1(registry)
  await registry.fetch('DELETE', '/v2/priv/app/manifests/v1')
  return {}
}

async function moved(registry: TestRegistry): Promise<Record<string, string>> {
  const found = await tagV1(registry)
  await putManifest(registry, 'priv/app', sha256(another), another)
  return found
}

async function fewTokens(registry: TestRegistry): Promise<Record<string, string>> {
  await registry.sql(`DELETE FROM credentials WHERE kind = 'personal'`)
  return {}
}

//                                     A   U   R   C   W   D   O   B   T   X   K   S   N   M
const kinds: Record<Kind, (ok: string, safe: boolean) => string> = {
  public: (ok) => Array(14).fill(ok).join(' '),
  somebody: (ok, safe) => `401 ${ok} ${ok} ${ok} ${ok} ${ok} ${ok} ${ok} 401 401 401 ${safe ? ok : 403} 401 ${ok}`,
  manage: (ok) => `401 403 403 403 403 403 403 403 401 401 401 403 401 ${ok}`,
  read: (ok, safe) => `401 403 ${ok} ${ok} ${ok} ${ok} ${ok} ${ok} 401 401 401 ${safe ? ok : 403} 401 ${ok}`,
  overwrite: (ok) => `401 403 403 403 ${ok} 403 ${ok} 403 401 401 401 403 401 ${ok}`,
  delete: (ok) => `401 403 403 403 403 ${ok} ${ok} 403 401 401 401 403 401 ${ok}`,
  own: (ok) => `401 403 403 403 403 403 ${ok} 403 401 401 401 403 401 ${ok}`,
}

/** Exceptions that the kinds cannot say: a robot's token makes no tokens; another's token answers as none. */
const exceptions: Readonly<Record<string, Record<string, number>>> = {
  CreateToken: { B: 403 },
  RevokeToken: { U: 404, R: 404, C: 404, W: 404, D: 404, O: 404, B: 404 },
}

function restRow(operation: Operation): Row {
  const ask = askedOf(operation)
  const { method, path } = operation.rest
  const expected = {
    ...cells(kinds[ask.kind](String(ask.status ?? 200), method === 'GET')),
    ...exceptions[operation.method.name],
  }
  return {
    name: `${method} ${path}`,
    route: `${method} ${path}`,
    expected,
    prepare: ask.prepare,
    send: (found) => ({
      method,
      path: path.replace(/:(\w+)\+?/g, (_all, name: string) => fill(ask.params?.[name] ?? '', found)),
      body: method === 'GET' || method === 'DELETE' ? undefined : JSON.stringify(ask.body ?? {}),
      headers: { 'content-type': 'application/json' },
    }),
  }
}

/** The same over Connect: cookies do not count there, and what REST says with 201 or 204 is 200. */
function rpcRow(operation: Operation): Row {
  const ask = askedOf(operation)
  const { method } = operation
  const ok = ask.status === undefined || ask.status < 300 ? 200 : ask.status
  const safe = cells(kinds[ask.kind](String(ok), true))
  const expected = { ...safe, ...exceptions[method.name], S: ask.kind === 'public' ? ok : 401 }
  const streams = operation.stream !== undefined
  return {
    name: `rpc ${method.parent.name}/${method.name}`,
    route: `POST /${method.parent.typeName}/${method.name}`,
    expected,
    prepare: ask.prepare,
    send: (found) => {
      const input = Object.fromEntries(Object.entries(ask.params ?? {}).map(([name, text]) => [name, fill(text, found)]))
      const body = JSON.stringify({ ...input, ...ask.body })
      const path = `/${method.parent.typeName}/${method.name}`
      if (!streams) return { method: 'POST', path, body, headers: { 'content-type': 'application/json' } }
      const frame = Buffer.concat([Buffer.from([0, 0, 0, 0, body.length]), Buffer.from(body)])
      return { method: 'POST', path, body: frame.toString('latin1'), headers: { 'content-type': 'application/connect+json' } }
    },
  }
}

function askedOf({ method }: Operation): Asked {
  const ask = asked[method.name]
  if (!ask) throw new Error(`the operation ${method.name} is missing in the matrix: add it to test/matrix/rows.ts`)
  return ask
}

const fill = (text: string, found: Record<string, string>) => text.replace('{made}', found.made ?? '')

export const rows = (): Row[] => [...ociRows, ...operations.map(restRow), ...operations.map(rpcRow)]
