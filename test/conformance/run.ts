// Runs the official conformance suite: versions 1.1 and dev, HTTP and HTTPS, as it comes, with sparse data, over three
// processes, and over a libSQL server. No failure and no skip is let pass. `--slice`: all of it over one process, and of the others less.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findTool, makeCertificate, password } from '../support/process.ts'
import { type ShapeName, shapeName, shapes, startShape } from '../support/shape.ts'
import { startSqld } from '../support/sqld.ts'

const suite = findTool('conformance')
if (!suite) {
  console.log('the conformance suite is not installed: .ci/install-clients builds it (needs go)')
  process.exit(process.env.CI ? 1 : 0)
}

const apis = [
  'PULL PUSH BLOBS_ATOMIC BLOBS_DELETE BLOBS_DIGEST_HEADER BLOBS_MOUNT_ANONYMOUS BLOBS_UPLOAD_CANCEL MANIFESTS_ATOMIC MANIFESTS_DELETE',
  'MANIFESTS_DIGEST_HEADER MANIFESTS_TAG_PARAM TAGS_ATOMIC TAGS_DELETE TAGS_LIST REFERRER',
]
  .join(' ')
  .split(' ')

let passed = 0
let failed = 0
const scratch = mkdtempSync(join(tmpdir(), 'mcr-conformance-'))
const certificate = makeCertificate(scratch)

interface Run {
  name: string
  shape: ShapeName
  sparse?: true
  remote?: true
  /** What a slice runs of it; all where absent. */
  slice?: readonly Case[]
}
type Case = (typeof cases)[number]
const cases = ['http 1.1', 'http dev', 'https 1.1', 'https dev'] as const
const isSlice = process.argv.includes('--slice')

/** In a shape that was asked for, once; otherwise from source with each kind of storage, and split. */
const runs: Run[] =
  shapeName() === 'source'
    ? [
        { name: 'one process', shape: 'source' },
        { name: 'sparse data', shape: 'source', sparse: true, slice: ['https dev'] },
        { name: 'three processes', shape: 'split', slice: ['http 1.1'] },
        { name: 'libSQL server', shape: 'source', remote: true, slice: ['https dev'] },
      ]
    : [{ name: shapes[shapeName()].what, shape: shapeName() }]

console.log('shape            scheme  version  pass  fail  skip  disabled')
for (const one of runs) {
  if (one.remote && !findTool('sqld') && !process.env.CI) {
    console.log('sqld is not installed, so the run over a libSQL server is left out: .ci/install-clients installs it')
    continue
  }
  const wanted = (isSlice && one.slice) || cases
  for (const scheme of ['http', 'https'] as const) {
    const versions = (['1.1', 'dev'] as const).filter((version) => wanted.includes(`${scheme} ${version}`))
    if (versions.length > 0) await runShape(one, scheme, versions)
  }
}
rmSync(scratch, { recursive: true, force: true })
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)

async function runShape(one: Run, scheme: 'http' | 'https', versions: readonly ('1.1' | 'dev')[]): Promise<void> {
  const sqld = one.remote && (await startSqld())
  const registry = await startShape(one.shape, scheme === 'https' ? certificate : undefined, {
    ...(one.sparse ? { MCR_STORAGE_SPARSE: 'allow' } : {}),
    ...(sqld ? { MCR_DATABASE_URL: sqld.url } : {}),
  })
  for (const version of versions) {
    const run = await runSuite({
      cwd: scratch,
      env: {
        ...process.env,
        OCI_RESULTS_DIR: join(scratch, `${one.name}-${version}-${scheme}`),
        OCI_VERSION: version,
        OCI_REGISTRY: registry.host,
        OCI_TLS: scheme === 'http' ? 'disabled' : 'enabled',
        SSL_CERT_FILE: certificate.cert,
        OCI_USERNAME: 'admin',
        OCI_PASSWORD: password,
        OCI_REPO1: `suite-${version}/one`,
        OCI_REPO2: `suite-${version}/two`,
        OCI_DATA_SPARSE: String(one.sparse ?? false),
        // In version 1.1 what came later is off unless asked for: everything is asked for.
        ...Object.fromEntries(apis.map((api) => [`OCI_API_${api}`, 'true'])),
      },
    })
    const { pass, fail, skip, disabled } = count(run.stdout)
    // Sparse data is off where it is not allowed, which is the only thing that may be.
    const good = run.status === 0 && pass > 500 && fail === 0 && skip === 0
    console.log(
      [
        one.name.padEnd(16),
        scheme.padEnd(7),
        version.padEnd(8),
        `${pass}`.padEnd(5),
        `${fail}`.padEnd(5),
        `${skip}`.padEnd(5),
        disabled,
      ].join(' '),
    )
    if (!good) console.log(`exit ${run.status}\n${run.stdout.slice(-6000)}\n${run.stderr.slice(-3000)}`)
    passed += pass || 0
    failed += (fail || 0) + (skip || 0) + (good ? 0 : 1)
  }
  await registry.remove()
  await sqld?.stop()
}

async function runSuite(options: {
  cwd: string
  env: NodeJS.ProcessEnv
}): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const child = spawn(suite as string, [], { ...options, stdio: ['ignore', 'pipe', 'pipe'], timeout: 120_000 })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk
  })
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, stdout, stderr }
}

/** The suite's own totals, of its report. */
function count(report: string): { pass: number; fail: number; skip: number; disabled: number } {
  const number = (name: string) => Number(new RegExp(`^  ${name}\\.+: +([0-9]+)$`, 'm').exec(report)?.[1] ?? Number.NaN)
  return { pass: number('Pass'), fail: number('FAIL') + number('Error'), skip: number('Skip'), disabled: number('Disabled') }
}
