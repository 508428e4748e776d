// The Helm chart and the compose file: what they make is valid, starts the image that is built, and lets the registry say what it needs.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { run } from '../e2e/clients.ts'
import { findTool, makeCertificate, password, startRegistry } from '../support/process.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-chart-'))
after(() => rmSync(scratch, { recursive: true, force: true }))
const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
const kubernetes = '1.37.0'
const helm = findTool('helm') as string
const compose = findTool('docker-compose') as string

const template = (...sets: string[]) =>
  spawnSync(helm, ['template', 'it', 'deploy/chart', '--kube-version', kubernetes, ...sets.flatMap((set) => ['--set', set])], {
    encoding: 'utf8',
  })
const url = 'publicUrl=https://registry.example.com'

/** Every branch of the templates, by what switches it on. */
const cases: Record<string, string[]> = {
  plain: [url],
  ingress: ['ingress.enabled=true', 'ingress.className=nginx', 'ingress.tlsSecretName=cert'],
  'own HTTPS': [url, 'tls.secretName=cert'],
  'own HTTPS behind the ingress': ['ingress.enabled=true', 'ingress.tlsSecretName=cert', 'tls.secretName=inside'],
  'a password of yours': [url, 'admin.existingSecret=login'],
  'a claim of yours': [url, 'persistence.existingClaim=mine'],
  'everything else': [
    url,
    'env.MCR_LOG_LEVEL=debug',
    'persistence.storageClassName=fast',
    'imagePullSecrets[0].name=pull',
    'podAnnotations.a=b',
    'nodeSelector.disk=ssd',
    'tolerations[0].key=x',
    'tolerations[0].operator=Exists',
    'service.type=LoadBalancer',
    'service.annotations.a=b',
    'affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1',
    'affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key=zone',
    'affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator=Exists',
  ],
}

test('helm lint finds nothing', async () => {
  await run('helm', ['lint', '--strict', 'deploy/chart', '--kube-version', kubernetes, '--set', url])
})

for (const [name, sets] of Object.entries(cases))
  test(`what the chart makes is valid for Kubernetes ${kubernetes}: ${name}`, () => {
    const { status, stdout, stderr } = template(...sets)
    assert.equal(status, 0, stderr)
    const file = join(scratch, 'rendered.yaml')
    writeFileSync(file, stdout)
    const checked = spawnSync(findTool('kubernetes-validate') as string, ['--strict', '-k', kubernetes, file], {
      encoding: 'utf8',
    })
    assert.equal(checked.status, 0, `${checked.stdout}${checked.stderr}`)
  })

test('an ingress speaks HTTPS to a registry that does', () => {
  const protocol = /nginx\.ingress\.kubernetes\.io\/backend-protocol: "?(\w+)/
  const ingress = ['ingress.enabled=true', 'tls.secretName=inside']
  assert.equal(protocol.exec(template(...ingress).stdout)?.[1], 'HTTPS')
  assert.equal(protocol.exec(template(...ingress.slice(0, 1)).stdout), null)
  assert.match(template(...ingress).stdout, /MCR_SERVER_TRUSTED_PROXIES/)
  // One of another kind is told by an annotation of its own.
  const own = 'ingress.annotations.nginx\\.ingress\\.kubernetes\\.io/backend-protocol=GRPCS'
  assert.deepEqual(template(...ingress, own).stdout.match(/backend-protocol: .*/g), ['backend-protocol: GRPCS'])
})

test('values that are wrong are refused with a reason', () => {
  for (const [set, why] of [
    ['publicUrl=', /publicUrl: the address clients use/],
    ['publicUrl=registry.example.com', /publicUrl/],
    ['servcie.port=1', /servcie/],
    ['env.LOG_LEVEL=debug', /LOG_LEVEL/],
  ] as const) {
    const { status, stderr } = template(...(set.startsWith('publicUrl') ? [] : [url]), set)
    assert.notEqual(status, 0, set)
    assert.match(stderr, why, set)
  }
})

test('the settings that chart and compose file name are settings', () => {
  const text = [
    ...Object.values(cases).map((sets) => template(...sets).stdout),
    readFileSync('deploy/compose.yaml', 'utf8'),
  ].join('\n')
  const names = new Set(text.match(/\bMCR_(SERVER|AUTH|STORAGE|LOG)_[A-Z_]+/g))
  assert.ok(names.size >= 6)
  const file = join(scratch, 'secret')
  writeFileSync(file, 'a long password\n', { mode: 0o600 })
  const good: Record<string, string> = {
    MCR_SERVER_SHUTDOWN_TIMEOUT: '60s',
    MCR_LOG_LEVEL: 'debug',
    MCR_SERVER_TRUSTED_PROXIES: '10.0.0.0/8',
  }
  const env = Object.fromEntries(
    [...names].map((name) => [name, good[name] ?? (name.endsWith('_URL') ? 'https://registry.example.com' : file)]),
  )
  const { cert, key } = makeCertificate(scratch)
  const checked = spawnSync('dist/mcr', ['config', 'check'], {
    encoding: 'utf8',
    env: { ...env, MCR_SERVER_TLS_CERT: cert, MCR_SERVER_TLS_KEY: key },
  })
  assert.equal(checked.status, 0, checked.stderr)
})

test('chart, compose file and package are of one version', () => {
  const chart = readFileSync('deploy/chart/Chart.yaml', 'utf8')
  assert.match(chart, new RegExp(`^version: ${version}$`, 'm'))
  assert.match(chart, new RegExp(`^appVersion: ${version}$`, 'm'))
  const image = /\$\{MCR_IMAGE:-(.*)\}/.exec(readFileSync('deploy/compose.yaml', 'utf8'))?.[1]
  assert.equal(image, `mcr/mcr:${version}`)
  // No registry has it yet: it is what the documentation loads into docker.
  assert.ok(readFileSync('docs/install.md', 'utf8').includes(`skopeo copy oci:dist/image:${version} docker-daemon:${image}`))
})

test('the compose file is valid and asks for what it needs', () => {
  const config = (env: Record<string, string>) =>
    spawnSync(compose, ['-f', 'deploy/compose.yaml', 'config'], { encoding: 'utf8', env: { PATH: process.env.PATH, ...env } })
  const { status, stdout, stderr } = config({ MCR_PUBLIC_URL: 'https://registry.example.com' })
  assert.equal(status, 0, stderr)
  assert.match(stdout, /read_only: true/)
  // It trusts who reaches it to say where a request came from.
  assert.match(stdout, /127\.0\.0\.1:5000:5000|host_ip: 127\.0\.0\.1/)
  assert.match(config({}).stderr, /the address clients use/)
})

test('the registry serves its own chart: packaged, pushed and pulled by helm', async () => {
  const certificate = makeCertificate(scratch)
  const registry = await startRegistry({ tls: certificate })
  try {
    const env = { HELM_REGISTRY_CONFIG: join(scratch, 'helm.json'), HELM_CACHE_HOME: join(scratch, 'cache') }
    const trust = ['--ca-file', certificate.cert]
    await run('helm', ['registry', 'login', registry.host, '-u', 'admin', '--password-stdin', ...trust], env, password)
    await run('helm', ['package', 'deploy/chart', '-d', scratch], env)
    await run('helm', ['push', join(scratch, `mcr-${version}.tgz`), `oci://${registry.host}/charts`, ...trust], env)
    mkdirSync(join(scratch, 'back'))
    await run(
      'helm',
      ['pull', `oci://${registry.host}/charts/mcr`, '--version', version, '-d', join(scratch, 'back'), ...trust],
      env,
    )
    execFileSync('cmp', [join(scratch, `mcr-${version}.tgz`), join(scratch, 'back', `mcr-${version}.tgz`)])
    assert.ok(existsSync(join(scratch, 'back')))
  } finally {
    await registry.remove()
  }
})
