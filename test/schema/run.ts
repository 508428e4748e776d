// schemathesis against the OpenAPI document of a running registry: no 5xx, and no answer that the document does not know.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { password, startRegistry, toolsDirectory } from '../support/process.ts'

const version = '4.32.5'
const environment = join(dirname(toolsDirectory), `schemathesis-${version}`)
const tool = join(environment, 'bin/schemathesis')

/** Installed once, in an environment of its own. Shape: whether it is there. */
function install(): boolean {
  if (existsSync(tool)) return true
  mkdirSync(dirname(environment), { recursive: true })
  for (const [command, args] of [
    ['python3', ['-m', 'venv', environment]],
    [join(environment, 'bin/pip'), ['install', '--quiet', `schemathesis==${version}`]],
  ] as const)
    if (spawnSync(command, args, { stdio: 'inherit' }).status !== 0) return false
  return existsSync(tool)
}

if (!install()) {
  console.log('schemathesis cannot be installed: it needs python3 with venv, and PyPI')
  process.exit(process.env.CI ? 1 : 0)
}

const seed = process.env.MCR_TEST_SEED ?? String(Math.floor(Math.random() * 1_000_000))
const examples = process.env.MCR_TEST_EXAMPLES ?? '15'
console.log(`MCR_TEST_SEED=${seed} MCR_TEST_EXAMPLES=${examples}`)
const registry = await startRegistry()
// What would end the tester's own way in, or not end at all.
const left = ['Logout', 'StreamEvents', 'DeleteAccount', 'UpdateAccount', 'RevokeRole', 'RevokeToken', 'ApplyRules']
const child = spawn(
  tool,
  [
    'run',
    `${registry.url}/v1/openapi.json`,
    '--auth',
    `admin:${password}`,
    '--seed',
    seed,
    '--max-examples',
    examples,
    '--checks',
    'not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance',
    ...left.flatMap((name) => ['--exclude-operation-id', name]),
    '--phases',
    'examples,coverage,fuzzing',
    '--max-time',
    process.env.MCR_TEST_SECONDS ?? '45',
    '--no-shrink',
    '--warnings',
    'off',
    '--suppress-health-check',
    'all',
  ],
  { stdio: 'inherit', env: { ...process.env, NO_COLOR: '1' } },
)
const code = await new Promise<number | null>((resolve) => child.once('exit', resolve))
await registry.remove()
process.exit(code ?? 1)
