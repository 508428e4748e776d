// Runs the official conformance suite: versions 1.1 and dev, HTTP and HTTPS, as it comes, with sparse data, and over three processes. No failure and no skip is let pass.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findTool, makeCertificate, password } from '../support/process.ts'
import { startShape } from '../support/split.ts'

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

console.log('version  scheme  sparse  processes  pass  fail  skip  disabled')
for (const [processes, sparse] of [
  [1, false],
  [1, true],
  [3, false],
] as const) {
  for (const scheme of ['http', 'https'] as const) {
    const registry = await startShape(
      processes,
      scheme === 'https' ? certificate : undefined,
      sparse ? { MCR_STORAGE_SPARSE: 'allow' } : {},
    )
    for (const version of ['1.1', 'dev']) {
      const results = join(scratch, `${version}-${scheme}-${sparse}-${processes}`)
      const run = await runSuite({
        cwd: scratch,
        env: {
          ...process.env,
          OCI_RESULTS_DIR: results,
          OCI_VERSION: version,
          OCI_REGISTRY: registry.host,
          OCI_TLS: scheme === 'http' ? 'disabled' : 'enabled',
          SSL_CERT_FILE: certificate.cert,
          OCI_USERNAME: 'admin',
          OCI_PASSWORD: password,
          OCI_REPO1: `suite-${version}/one`,
          OCI_REPO2: `suite-${version}/two`,
          OCI_DATA_SPARSE: String(sparse),
          // In version 1.1 what came later is off unless asked for: everything is asked for.
          ...Object.fromEntries(apis.map((api) => [`OCI_API_${api}`, 'true'])),
        },
      })
      const counts = count(run.stdout)
      // Sparse data is off in the run "as it comes", which is the only thing that may be.
      const good = run.status === 0 && counts.pass > 500 && counts.fail === 0 && counts.skip === 0
      console.log(
        [
          version.padEnd(8),
          scheme.padEnd(7),
          String(sparse).padEnd(7),
          String(processes).padEnd(10),
          String(counts.pass).padEnd(5),
          String(counts.fail).padEnd(5),
          String(counts.skip).padEnd(5),
          counts.disabled,
        ].join(' '),
      )
      if (!good) console.log(`exit ${run.status}\n${run.stdout.slice(-6000)}\n${run.stderr.slice(-3000)}`)
      passed += counts.pass || 0
      failed += (counts.fail || 0) + (counts.skip || 0) + (good ? 0 : 1)
    }
    await registry.remove()
  }
}
rmSync(scratch, { recursive: true, force: true })
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)

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
