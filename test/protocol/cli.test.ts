import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { operations } from '../../lib/admin/operations.ts'
import { freePort } from '../support/ports.ts'
import { mcrCommand, password, type RegistryProcess, startRegistry } from '../support/process.ts'

const [command, ...words] = mcrCommand()
const home = mkdtempSync(join(tmpdir(), 'mcr-cli-'))
const grpcPort = await freePort()
const registry: RegistryProcess = await startRegistry({ env: { MCR_SERVER_GRPC_ADDR: `127.0.0.1:${grpcPort}` } })
after(() => registry.remove())
const authorization = `Basic ${btoa(`admin:${password}`)}`
/** Commands hold this process while they run: connections that ended meanwhile are noticed before one of them is used. */
const fetch: typeof globalThis.fetch = async (...request) => {
  await new Promise((resolve) => setTimeout(resolve, 20))
  return await globalThis.fetch(...request)
}
const fetchJson = async (method: string, path: string, body?: object) => {
  const response = await fetch(`${registry.url}${path}`, {
    method,
    headers: { authorization, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  })
  return (await response.json()) as Record<string, never>
}
const { token } = await fetchJson('POST', '/v1/auth/login', { username: 'admin', password })

/** The three ways to a registry: its own host's database, REST, gRPC. */
const faces: Record<string, string[]> = {
  local: [],
  rest: ['--server', registry.url, '--token', String(token)],
  grpc: ['--grpc', `http://127.0.0.1:${grpcPort}`, '--token', String(token)],
}
interface Ran {
  status: number | null
  out: string
  err: string
}
function mcr(face: string, args: string[], input = '', env: Record<string, string> = {}): Ran {
  const { status, stdout, stderr } = spawnSync(command, [...words, ...(faces[face] as string[]), ...args], {
    encoding: 'utf8',
    input,
    timeout: 30_000,
    env: {
      PATH: process.env.PATH,
      HOME: home,
      XDG_CONFIG_HOME: join(home, face),
      MCR_STORAGE_ROOT: registry.dir,
      MCR_STORAGE_FREE_FLOOR: '0',
      ...env,
    },
  })
  return { status, out: stdout, err: stderr }
}
function ok(face: string, args: string[], input?: string): string {
  const { status, out, err } = mcr(face, args, input)
  assert.equal(status, 0, `mcr ${args.join(' ')} by ${face}: ${status}: ${out}${err}`)
  return out
}
const json = (face: string, args: string[]) => JSON.parse(ok(face, ['--json', ...args])) as Record<string, never>

/** Operations that a command was run for, by their words. */
const exercised = new Map<string, Set<string>>()
function exercise(face: string, words: string): void {
  exercised.set(face, (exercised.get(face) ?? new Set()).add(words))
}

async function pushImage(name: string, tag: string, note = tag): Promise<string> {
  const empty = 'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'
  await fetch(`${registry.url}/v2/${name}/blobs/uploads/?digest=${empty}`, {
    method: 'POST',
    headers: { authorization },
    body: '{}',
  })
  const type = 'application/vnd.oci.image.manifest.v1+json'
  const body = JSON.stringify({
    schemaVersion: 2,
    mediaType: type,
    config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: empty, size: 2 },
    layers: [],
    annotations: { note },
  })
  const response = await fetch(`${registry.url}/v2/${name}/manifests/${tag}`, {
    method: 'PUT',
    headers: { authorization, 'content-type': type },
    body,
  })
  return response.headers.get('docker-content-digest') as string
}

for (const face of Object.keys(faces)) {
  const run = (words: string, ...args: string[]) => {
    exercise(face, words)
    return json(face, [...words.split(' '), ...args]) as Record<string, unknown>
  }
  test(`every operation by the command line, ${face}`, async () => {
    const name = `cli/${face}`
    const first = await pushImage(name, 'v1', 'one')
    const second = await pushImage(name, 'v2', 'two')
    assert.equal(run('health').status, 'ok')
    assert.ok(Number(run('status').repositories) >= 1)
    if (face !== 'local') assert.equal(run('whoami').name, 'admin')
    else {
      assert.match(String(run('whoami').subject), /^local:/)
    }
    assert.ok((run('repo list').repositories as { name: string }[]).some((entry) => entry.name === name))
    assert.equal((run('repo show', name).tags as unknown[]).length, 2)
    assert.deepEqual(
      (run('tag list', name).tags as { name: string }[]).map((tag) => tag.name),
      ['v1', 'v2'],
    )
    assert.equal(run('tag show', name, 'v1').digest, first)
    assert.equal(run('tag move', name, 'v1', second, '--if-digest', first).old_digest, first)
    assert.equal((run('tag history', name, 'v1').changes as unknown[]).length, 2)
    assert.equal(run('manifest show', name, 'v2').digest, second)
    assert.equal(run('tag delete', name, 'v1').digest, second)
    assert.equal(run('manifest delete', name, second).digest, second)
    assert.deepEqual(run('undelete', name, second).tags, ['v1', 'v2'])
    assert.equal(run('why', second).state, 'stored')
    assert.ok((run('du').usage as { name: string }[]).some((entry) => entry.name === name))
    for (const tag of ['a', 'b', 'c']) await pushImage(name, tag)
    assert.equal(run('purge', name, '--keep', '1', '--dry-run').deleted, 4)
    assert.equal(run('purge', name, '--keep', '1').deleted, 4)
    assert.equal(run('repo delete', name).tags_deleted, 1)
    assert.match(String(run('gc run', '--dry-run').id), /-/)
    const settled = async () => {
      for (let wait = 0; wait < 100 && run('gc status').running; wait++) await new Promise((resolve) => setTimeout(resolve, 100))
    }
    await settled()
    assert.deepEqual(
      (run('gc findings').findings as { kind: string }[]).map(({ kind }) => kind),
      [],
      'nothing is old enough',
    )
    assert.match(String(run('gc reconcile').id), /-/)
    await settled()
    assert.equal(run('gc pause').changed, true)
    assert.equal(mcr(face, ['gc', 'run']).status, 5, 'paused')
    assert.equal(run('gc status').paused, true)
    assert.equal(run('gc resume').changed, true)

    exercise(face, 'verify')
    assert.match(ok(face, ['verify', '--deep']), /^all is there: \d+ manifests/m)
    exercise(face, 'repair')
    assert.match(ok(face, ['repair', '--from', 'registry.invalid']), /^0 healed, 0 still damaged/m)

    run('account create', `p-${face}`, '--password', 'long enough', '--roles', 'user')
    assert.equal((run('account show', `p-${face}`).account as { name: string }).name, `p-${face}`)
    assert.deepEqual((run('role grant', `p-${face}`, 'release').account as { roles: string[] }).roles, ['user', 'release'])
    assert.deepEqual((run('role revoke', `p-${face}`, 'user').account as { roles: string[] }).roles, ['release'])
    assert.ok((run('role list').roles as { name: string }[]).some((role) => role.name === 'release'))
    assert.equal((run('account update', `p-${face}`, '--disabled').account as { disabled: boolean }).disabled, true)
    assert.ok((run('account list').accounts as { name: string }[]).some((account) => account.name === `p-${face}`))
    run('account delete', `p-${face}`)

    if (face === 'local') {
      const refused = mcr(face, ['token', 'create', 'x'])
      assert.equal(refused.status, 2, 'the owner of the data has no account to make tokens for')
      exercise(face, 'token create')
      await fetchJson('POST', '/v1/tokens', { name: 'cli' })
      const listed = run('token list', '--account', 'admin').tokens as { id: number; name: string }[]
      run('token revoke', String(listed.find((entry) => entry.name === 'cli')?.id))
    } else {
      const made = run('token create', 'laptop', '--expires-in', '1d', '--actions', 'registry:pull') as {
        token: { id: number }
        secret: string
      }
      assert.match(made.secret, /^mcrp_/)
      assert.ok((run('token list').tokens as { id: number }[]).some((entry) => entry.id === made.token.id))
      run('token revoke', String(made.token.id))
    }
    assert.match(
      String(run('robot create', `r-${face}`, '--actions', 'registry:pull', '--repositories', 'x/**').secret),
      /^mcrr_/,
    )
    assert.ok((run('robot list').robots as { name: string }[]).some((robot) => robot.name === `r-${face}`))
    assert.match(String(run('robot rotate', `r-${face}`).secret), /^mcrr_/)
    run('robot delete', `r-${face}`)
    const trust = run(
      'trust create',
      '--issuer',
      'https://issuer.example',
      '--audience',
      'x',
      '--claims',
      'sub=x',
      '--actions',
      'registry:pull',
    ).trust as { id: number }
    assert.ok((run('trust list').trusts as unknown[]).length > 0)
    run('trust delete', String(trust.id))
    exercise(face, 'exchange')
    assert.equal(mcr(face, ['exchange', 'a.b.c']).status, 3)
    run('keys rotate')

    const rule = run(
      'policy create',
      '--effect',
      'deny',
      '--actions',
      'registry:overwrite',
      '--tags',
      'v*',
      '--except-tags',
      'v0*',
      '--message',
      'stay',
    ).rule as { id: number; except: { tags: string[] } }
    assert.deepEqual(rule.except.tags, ['v0*'])
    assert.equal((run('policy show', String(rule.id)).rule as { message: string }).message, 'stay')
    assert.equal(
      (run('policy update', String(rule.id), '--priority', '7', '--enabled', 'false').rule as { priority: number }).priority,
      7,
    )
    assert.ok((run('policy list').rules as unknown[]).length > 0)
    assert.equal(run('policy test', 'admin', 'registry:push', 'x/y').allow, true)
    const file = join(home, `rules-${face}.toml`)
    writeFileSync(file, ok(face, ['policy', 'export']))
    assert.match(readFileSync(file, 'utf8'), /message = "stay"/)
    exercise(face, 'policy replay')
    assert.match(ok(face, ['policy', 'replay', '--rules', file, '--since', '1d']), /requests:/)
    run('policy delete', String(rule.id))
    exercise(face, 'policy apply')
    const dry = mcr(face, ['policy', 'apply', file, '--dry-run'])
    assert.match(dry.err, /^\+ deny registry:overwrite tags v\*/m)
    ok(face, ['policy', 'apply', file, '--yes'])
    assert.match(mcr(face, ['policy', 'apply', file, '--dry-run']).err, /0 to change, 1 stay/)
    writeFileSync(file, '')
    ok(face, ['policy', 'apply', file, '--yes'])

    assert.ok((run('audit list', '--event-type', 'rule_created').events as unknown[]).length > 0)
    exercise(face, 'audit tail')
    const lines = ok(face, ['--json', 'audit', 'tail', '--event-type', 'account_added']).trim().split('\n')
    assert.ok(lines.every((line) => (JSON.parse(line) as { event_type: string }).event_type === 'account_added'))
    assert.equal(run('audit verify').ok, true)
    assert.ok(ok(face, ['audit', 'export']).trim().split('\n').length >= lines.length)
  })
}

test('login keeps its file 0600 and logout ends it on the server; the commands in between need no flags', () => {
  faces.saved = []
  ok('saved', ['login', registry.url, '-u', 'admin', '--password-stdin'], `${password}\n`)
  const file = join(home, 'saved/mcr/login.json')
  assert.equal(statSync(file).mode & 0o777, 0o600)
  assert.match(ok('saved', ['whoami']), /credential: +login/)
  const kept = (JSON.parse(readFileSync(file, 'utf8')) as { token: string }).token
  ok('saved', ['logout'])
  assert.ok(!existsSync(file))
  faces.old = ['--server', registry.url, '--token', kept]
  assert.equal(mcr('old', ['whoami']).status, 3)
  for (const face of ['local', 'rest', 'grpc']) for (const words of ['login', 'logout']) exercise(face, words)
})

test('no operation was left out by any face', () => {
  for (const face of ['local', 'rest', 'grpc'])
    assert.deepEqual(
      operations.map(({ cli }) => cli.words).filter((words) => !exercised.get(face)?.has(words)),
      [],
      face,
    )
})

test('the faces agree: the same question has the same answer', () => {
  for (const args of [
    ['account', 'list'],
    ['policy', 'list', '--built-in'],
    ['role', 'list'],
    ['policy', 'test', 'admin', 'registry:pull', 'x'],
    ['repo', 'list'],
  ]) {
    // When something was last used moves on by itself.
    const answers = ['local', 'rest', 'grpc'].map((face) =>
      JSON.stringify(json(face, args), (name, value) => (name === 'last_used_at' ? undefined : value)),
    )
    assert.equal(answers[1], answers[0], args.join(' '))
    assert.equal(answers[2], answers[0], args.join(' '))
  }
})

/** Proto3's JSON as REST writes it: fields as in the protos, integers as numbers, what is empty left out of both. */
function plain(value: unknown, name = ''): unknown {
  if (Array.isArray(value)) return value.map((entry) => plain(entry))
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(
      Object.entries(value)
        .map(([key, entry]) => [key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), entry] as const)
        // When something was last used, and how long the journal is, move on by themselves.
        .filter(
          ([key, entry]) =>
            !['last_used_at', 'journal_seq'].includes(key) && entry !== '' && entry !== false && entry !== 0 && entry !== '0',
        )
        .map(([key, entry]) => [key, plain(entry, key)] as const)
        .filter(([, entry]) => !Array.isArray(entry) || entry.length > 0)
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    )
  if (/_at$|_time$/.test(name)) return Date.parse(String(value))
  return typeof value === 'string' && /^[0-9]{1,15}$/.test(value) ? Number(value) : value
}

test('REST and Connect with JSON agree: every question has the same answer, and every operation the same refusal', async () => {
  const digest = await pushImage('agree/app', 'v1')
  const made = (await fetchJson('POST', '/v1/policy/rules', {
    effect: 'deny',
    actions: ['registry:pull'],
    repositories: ['agree/none'],
    tags: ['v*'],
    priority: 9,
  })) as { rule: { id: number } } & Record<string, never>
  // What is asked of the operations that only read; those that begin with a path parameter need a thing to ask for.
  const inputs: Record<string, Record<string, string | number>> = {
    GetRepository: { repository: 'agree/app' },
    ListTags: { repository: 'agree/app' },
    GetTag: { repository: 'agree/app', tag: 'v1' },
    ListTagHistory: { repository: 'agree/app', tag: 'v1' },
    GetManifest: { repository: 'agree/app', reference: 'v1' },
    GetAccount: { account: 'admin' },
    GetRule: { id: made.rule.id },
    ExplainDigest: { digest },
  }
  const connect = async (operation: (typeof operations)[number], input: object, header: Record<string, string>) =>
    await fetch(`${registry.url}/${operation.method.parent.typeName}/${operation.method.name}`, {
      method: 'POST',
      headers: { ...header, 'content-type': 'application/json' },
      body: JSON.stringify(input),
    })
  const rest = async (
    { rest }: (typeof operations)[number],
    input: Record<string, string | number>,
    header: Record<string, string>,
  ) =>
    await fetch(`${registry.url}${rest.path.replaceAll(/:(\w+)\+?/g, (_, name: string) => String(input[name] ?? '1'))}`, {
      method: rest.method,
      headers: {
        ...header,
        ...(rest.method === 'GET' || rest.method === 'DELETE' ? {} : { 'content-type': 'application/json' }),
      },
    })
  let questions = 0
  for (const operation of operations) {
    const { method, rest: face, action, stream } = operation
    const input = inputs[method.name] ?? {}
    if (face.method === 'GET' && !stream) {
      const [one, other] = [await rest(operation, input, { authorization }), await connect(operation, input, { authorization })]
      const answers = [await one.json(), await other.json()]
      assert.deepEqual([one.status, other.status], [200, 200], `${method.name} ${JSON.stringify(answers)}`)
      assert.deepEqual(plain(answers[1]), plain(answers[0]), method.name)
      questions++
    }
    if (action === 'public' || stream) continue
    const wrong = { authorization: 'Bearer mcrl_nonsense' }
    // A refusal comes before any look at what is asked for, but what is asked for must be whole.
    const some = { repository: 'agree/app', tag: 'v1', reference: 'v1', digest, ...input }
    const fields = new Set(method.input.fields.map(({ name }) => name))
    const whole = Object.fromEntries(Object.entries(some).filter(([name]) => fields.has(name)))
    assert.deepEqual(
      [(await rest(operation, whole, wrong)).status, (await connect(operation, whole, wrong)).status],
      [401, 401],
      method.name,
    )
  }
  assert.ok(questions > 15, `${questions} questions`)
  await fetch(`${registry.url}/v1/policy/rules/${made.rule.id}`, { method: 'DELETE', headers: { authorization } })
})

test('verify ends with a code of its own where something is damaged, and names it', async () => {
  const content = 'to be damaged'
  const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`
  const push = () =>
    fetch(`${registry.url}/v2/cli/damaged/blobs/uploads/?digest=${digest}`, {
      method: 'POST',
      headers: { authorization },
      body: content,
    })
  await push()
  const folder = join(registry.dir, 'blobs/sha256', digest.slice(7, 9))
  const path = join(folder, readdirSync(folder).find((name) => name.startsWith(digest.slice(7))) as string)
  chmodSync(path, 0o600)
  writeFileSync(path, content.toUpperCase())
  const marked = async () => {
    const text = await (await fetch(`${registry.url}/metrics`, { headers: { authorization } })).text()
    return /^mcr_blobs_damaged (\d+)$/m.exec(text)?.[1]
  }
  assert.equal(mcr('local', ['verify']).status, 0, 'its size is right')
  assert.equal(await marked(), '0')
  // Marked by a process that serves nothing: its alarm is a line there, and a number of every one that serves.
  const { err } = mcr('local', ['verify', '--deep'])
  const alarm = JSON.parse(err.split('\n').find((line) => line.includes('blob_damaged')) as string) as Record<string, string>
  assert.deepEqual([alarm.level, alarm.event, alarm.digest], ['error', 'blob_damaged', digest])
  assert.equal(await marked(), '1')
  await registry.restart()
  assert.equal(await marked(), '1', 'also after a restart')
  for (const face of ['local', 'rest', 'grpc']) {
    const { status, out } = mcr(face, ['verify', '--deep'])
    assert.equal(status, 7, out)
    assert.match(out, new RegExp(`damage: blob_bytes ${digest} in cli/damaged\n.*do not hash.*\n.*push the digest again`))
  }
  assert.equal((await push()).status, 201)
  assert.equal(await marked(), '0')
  assert.equal(mcr('local', ['verify', '--deep']).status, 0)
})

test('repair on the host of the registry leaves the floor of free space to others', async () => {
  const content = 'to be repaired'
  const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`
  const other = await startRegistry()
  try {
    for (const { url } of [registry, other]) {
      const path = `${url}/v2/cli/repaired/blobs/uploads/?digest=${digest}`
      assert.equal((await fetch(path, { method: 'POST', headers: { authorization }, body: content })).status, 201)
    }
    const folder = join(registry.dir, 'blobs/sha256', digest.slice(7, 9))
    const path = join(folder, readdirSync(folder).find((name) => name.startsWith(digest.slice(7))) as string)
    chmodSync(path, 0o600)
    writeFileSync(path, content.toUpperCase())
    assert.equal(mcr('local', ['verify', '--deep']).status, 7)
    const repair = (floor: string) =>
      mcr('local', ['repair', '--from', other.url, '-u', 'admin', '--password-stdin'], password, {
        MCR_STORAGE_FREE_FLOOR: floor,
      })
    const refused = repair('1000000GiB')
    assert.deepEqual([refused.status, /fewer than \d+ bytes would stay free/.test(refused.out)], [7, true], refused.out)
    const healed = repair('0')
    assert.deepEqual([healed.status, /^1 healed, 0 still damaged/m.test(healed.out)], [0, true], healed.out)
  } finally {
    await other.remove()
  }
})

test('exit codes say what kind of failure it was', () => {
  assert.equal(mcr('rest', ['policy', 'show', '99']).status, 4)
  assert.equal(mcr('rest', ['policy', 'create', '--effect', 'maybe', '--actions', 'registry:pull']).status, 2)
  assert.equal(mcr('rest', ['policy', 'create', '--effects', 'deny']).status, 2)
  assert.equal(mcr('rest', ['account', 'create', 'admin', '--password', 'long enough']).status, 5)
  faces.wrong = ['--server', registry.url, '--token', 'mcrl_nonsense']
  assert.equal(mcr('wrong', ['status']).status, 3)
  faces.nowhere = ['--server', 'http://127.0.0.1:1']
  assert.equal(mcr('nowhere', ['status']).status, 6)
})

test('tail --follow prints what happens while it runs', async () => {
  for (const face of ['local', 'rest', 'grpc']) {
    await fetchJson('POST', '/v1/accounts', { name: `before-${face}`, password: 'long enough' })
    const child = spawn(
      command,
      [
        ...words,
        ...(faces[face] as string[]),
        '--json',
        'audit',
        'tail',
        '--follow',
        '--last',
        '1',
        '--event-type',
        'account_added',
      ],
      {
        env: { PATH: process.env.PATH, HOME: home, XDG_CONFIG_HOME: join(home, face), MCR_STORAGE_ROOT: registry.dir },
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    )
    const seen = new Promise<void>((resolve) => {
      let text = ''
      child.stdout.on('data', (chunk: Buffer) => {
        text += chunk
        if (text.includes(`follow-${face}`)) resolve()
      })
    })
    await new Promise<void>((resolve) => child.stdout.once('data', () => resolve()))
    await fetchJson('POST', '/v1/accounts', { name: `follow-${face}`, password: 'long enough' })
    await seen
    child.kill('SIGINT')
  }
})

test('completion scripts are shell', () => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    const script = ok('local', ['completion', shell])
    assert.match(script, /policy/)
    if (shell === 'bash') assert.equal(spawnSync('bash', ['-n'], { input: script }).status, 0)
  }
  const words = spawnSync(
    'bash',
    ['-c', `${ok('local', ['completion', 'bash'])}\nCOMP_WORDS=(mcr policy ''); COMP_CWORD=2; _mcr; echo "\${COMPREPLY[@]}"`],
    { encoding: 'utf8' },
  )
  assert.match(words.stdout, /apply.*replay|replay.*apply/)
})
