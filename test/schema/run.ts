// schemathesis against the OpenAPI document of the built registry: no 5xx, and no answer that the document does not know.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { findTool, password, startRegistry, toolsDirectory } from '../support/process.ts'

/** Both, because the cases of a seed are those of a version of the two. */
const packages = ['schemathesis==4.32.5', 'hypothesis==6.170.17']
const folder = join(dirname(toolsDirectory), packages.join('-').replaceAll('==', '-'))
const seed = process.env.MCR_TEST_SEED ?? '20261124'
const examples = process.env.MCR_TEST_EXAMPLES ?? '40'
const checks = ['not_a_server_error', 'status_code_conformance', 'content_type_conformance', 'response_schema_conformance']

/** Python that has schemathesis; made once in the folder of the tools. Shape: the interpreter and where its modules are. */
function install(): { python: string; modules?: string } | undefined {
  const python = findTool('python3')
  if (!python) return undefined
  const found = { python: join(folder, 'bin/python') }
  const modules = join(folder, 'modules')
  if (existsSync(found.python)) return found
  if (existsSync(modules)) return { python, modules }
  // Made beside it and renamed, so that what a kill leaves is not taken for it.
  const fresh = `${folder}.${process.pid}`
  mkdirSync(dirname(folder), { recursive: true })
  const works = (command: string, args: string[]) =>
    spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] }).status === 0
  const quiet = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
  try {
    if (works(python, ['-m', 'venv', fresh]) && works(join(fresh, 'bin/python'), [...quiet, ...packages])) {
      renameSync(fresh, folder)
      return found
    }
    // Debian keeps what makes environments in a package of its own, python3-venv.
    rmSync(fresh, { recursive: true, force: true })
    if (!works(python, [...quiet, '--target', join(fresh, 'modules'), ...packages])) return undefined
    renameSync(fresh, folder)
    return { python, modules }
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

/** What is there to be found: half of the cases name these in place of what nobody has. */
const known = {
  repository: 'app',
  tag: 'v1',
  reference: 'v1',
  account: 'somebody',
  name: 'robot',
  role: 'user',
  to: 'v1',
  action: 'registry:pull',
}

/**
 * What the cases are kept from: the account that asks is never the one that is deleted, disabled, or loses its role (another takes its
 * place), and no stream is followed. Every request comes from an address of its own, as a proxy would say it: else a hundred wrong
 * logins would lock the tester's address out, and the rest of the run would see nothing but 429, which is in the document.
 */
const hooks = `
import itertools, json, os
import schemathesis

known = json.loads(os.environ["KNOWN"])
numbers = itertools.count(1)

@schemathesis.hook
def map_case(context, case):
    name = case.operation.definition.raw["operationId"]
    for fields in (case.path_parameters, case.query, case.body):
        if isinstance(fields, dict):
            for field, value in fields.items():
                if field in known and isinstance(value, str) and len(value) % 2 == 0 and not name.startswith("Create"):
                    fields[field] = known[field]
    if name in ("DeleteAccount", "UpdateAccount", "RevokeRole"):
        if str((case.path_parameters or {}).get("account", "")).lower() in ("admin", os.environ["TESTER"]):
            case.path_parameters["account"] = "somebody"
    if name == "StreamEvents" and isinstance(case.query, dict):
        case.query.pop("follow", None)
    return case

@schemathesis.hook
def before_call(context, case, kwargs):
    n = next(numbers)
    address = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
    case.headers = {**(case.headers or {}), "X-Forwarded-For": address}
`

const installed = install()
if (!installed) {
  console.log(`${packages[0]} cannot be installed: it needs python3 with venv or pip, and PyPI`)
  process.exit(process.env.CI ? 1 : 0)
}
const scratch = mkdtempSync(join(tmpdir(), 'mcr-schema-run-'))
writeFileSync(join(scratch, 'mcr_hooks.py'), hooks)
const registry = await startRegistry({ env: { MCR_SERVER_TRUSTED_PROXIES: '127.0.0.1' } })
const authorization = `Basic ${btoa(`admin:${password}`)}`
const ask = async (method: string, path: string, body?: object) => {
  const response = await fetch(`${registry.url}${path}`, {
    method,
    headers: { authorization, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
  return await response.text()
}

/** The least that a repository can hold: an index of nothing. */
async function pushManifest(): Promise<void> {
  const type = 'application/vnd.oci.image.index.v1+json'
  const response = await fetch(`${registry.url}/v2/${known.repository}/manifests/${known.tag}`, {
    method: 'PUT',
    headers: { authorization, 'content-type': type },
    body: JSON.stringify({ schemaVersion: 2, mediaType: type, manifests: [] }),
  })
  if (!response.ok) throw new Error(`PUT manifest: ${response.status} ${await response.text()}`)
}

let failed = true
try {
  const tester = JSON.parse(await ask('GET', '/v1/auth/whoami')) as { subject: string }
  await ask('POST', '/v1/accounts', { name: known.account })
  await ask('POST', '/v1/robots', { name: known.name, actions: [known.action], repositories: ['**'] })
  await pushManifest()
  console.log(`seed ${seed}, at most ${examples} cases an operation: MCR_TEST_SEED and MCR_TEST_EXAMPLES set them`)
  // Not spawnSync: what it blocks for minutes are also the connections of this process.
  const child = spawn(
    installed.python,
    [
      ...['-m', 'schemathesis.cli', 'run', `${registry.url}/v1/openapi.json`, '--auth', `admin:${password}`],
      ...['--checks', checks.join(','), '--seed', seed, '--max-examples', examples, '--generation-database', 'none'],
      ...['--exclude-operation-id', 'Logout', '--suppress-health-check', 'all'],
      ...['--request-timeout', '20', '--warnings', 'off', '--no-color', '--continue-on-failure'],
    ],
    {
      cwd: scratch,
      stdio: 'inherit',
      timeout: 300_000,
      env: {
        ...process.env,
        PYTHONPATH: [scratch, installed.modules ?? ''].join(':'),
        SCHEMATHESIS_HOOKS: 'mcr_hooks',
        TESTER: tester.subject,
        KNOWN: JSON.stringify(known),
      },
    },
  )
  const [status, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
  failed = status !== 0
  if (signal) console.log(`schemathesis was ended by ${signal}: five minutes are the most`)

  // What was refused at the door has shown nothing of what is behind it.
  const document = JSON.parse(await ask('GET', '/v1/openapi.json')) as {
    paths: Record<string, Record<string, { operationId: string }>>
  }
  const names = Object.values(document.paths).flatMap((path) => Object.values(path).map(({ operationId }) => operationId))
  const answers = new Map<string, Map<string, number>>()
  for (const [, labels, count] of (await ask('GET', '/metrics')).matchAll(/^mcr_requests_total\{(.*)\} ([0-9]+)$/gm)) {
    const { endpoint, status: code } = Object.fromEntries(
      [...(labels as string).matchAll(/(\w+)="(.*?)"/g)].map((m) => [m[1], m[2]]),
    )
    const of = answers.get(endpoint as string) ?? new Map<string, number>()
    answers.set(endpoint as string, of.set(code as string, (of.get(code as string) ?? 0) + Number(count)))
  }
  let done = 0
  for (const name of names.filter((entry) => entry !== 'Logout')) {
    const of = answers.get(name) ?? new Map<string, number>()
    if ([...of.keys()].some((code) => code.startsWith('2'))) done++
    const closed = [...of].filter(([code]) => code === '429' || (code === '401' && !['Login', 'ExchangeToken'].includes(name)))
    if (of.size > 0 && closed.length === 0) continue
    failed = true
    console.log(
      `${name} was ${of.size === 0 ? 'never asked' : `refused at the door: ${closed.map(([code, count]) => `${count} × ${code}`)}`}`,
    )
  }
  console.log(`${names.length - 1} operations asked, ${done} of them with success at least once`)
} finally {
  await registry.remove()
  rmSync(scratch, { recursive: true, force: true })
}
process.exit(failed ? 1 : 0)
