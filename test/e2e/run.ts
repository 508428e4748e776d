// Real clients against the built registry, over HTTPS and with login. Everything one client pushes, every other pulls, byte for byte;
// with `--slice` half of the others from source, and fewer clients in another shape.
import assert from 'node:assert/strict'
import { mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findTool, makeCertificate, password } from '../support/process.ts'
import { shapeName, shapes, startShape } from '../support/shape.ts'
import { dockerRun, makeClients, run, type Target } from './clients.ts'
import { makeContent } from './content.ts'

const needed = [
  'docker',
  'dockerd',
  'containerd',
  'ctr',
  'skopeo',
  'podman',
  'buildah',
  'crane',
  'oras',
  'regctl',
  'helm',
  'debootstrap',
  'openssl',
]
const isSlice = process.argv.includes('--slice')
const missing = needed.filter((name) => !findTool(name))
if (missing.length > 0) {
  console.log(`not installed: ${missing.join(', ')}; on Debian .ci/install-clients installs them (as root)`)
  process.exit(process.env.CI ? 1 : 0)
}

// In lower case: podman makes an image's name of the path of a layout.
const scratch = join(clientsRoot(), `mcr-e2e-${process.pid}`)
mkdirSync(scratch)
const { cert, key } = makeCertificate(scratch)
const registry = await startShape(shapeName(), { cert, key })
console.log(`the registry is ${shapes[shapeName()].what}`)
const { host } = registry
const target: Target = { host, cert, scratch }
// A slice in another shape does without the two that take longest and go the same way as skopeo.
const left = isSlice && shapeName() !== 'source' ? ['podman', 'buildah'] : []
const clients = makeClients(target).filter(({ name }) => !left.includes(name))
let passed = 0
let failed = 0

/** Where the clients keep what they pull: in memory, where there is room, since they unpack each image whole. The registry stays on its disk. */
function clientsRoot(): string {
  const memory = '/dev/shm'
  try {
    const { bavail, bsize } = statfsSync(memory)
    if (bavail * bsize > 8 * 2 ** 30) return memory
  } catch {
    // A machine without it has a disk.
  }
  return tmpdir()
}

async function story(name: string, work: () => Promise<unknown>): Promise<void> {
  const started = Date.now()
  try {
    await work()
    passed++
    console.log(`ok    ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`)
  } catch (error) {
    failed++
    console.log(
      `FAIL  ${name}\n      ${String((error as Error).message)
        .split('\n')
        .join('\n      ')}`,
    )
  }
}

/** From source what each client pushes every other pulls; in another shape, which serves the same handlers, the next one does. */
function pullersOf(pusher: (typeof clients)[number]): typeof clients {
  const own = clients.indexOf(pusher)
  if (shapeName() !== 'source') return [clients[(own + 1) % clients.length] as typeof pusher]
  // A slice: each pulls from every other one of the rest.
  return clients.filter((client, index) => client !== pusher && !(isSlice && (index + own) % 2 === 0))
}

const authorization = `Basic ${Buffer.from(`admin:${password}`).toString('base64')}`

/** What the registry itself says a reference is: digest of its manifest, and of the configuration for this platform. */
async function inRegistry(reference: string): Promise<{ manifest: string; config: string; body: string }> {
  const [, repository, tag] = /^[^/]+\/(.+):([^:]+)$/.exec(reference) as unknown as [string, string, string]
  const get = async (name: string) =>
    await run('curl', [
      '-sS',
      '--fail',
      '--cacert',
      cert,
      '-H',
      `Authorization: ${authorization}`,
      `https://${host}/v2/${repository}/manifests/${name}`,
    ])
  const body = await get(tag)
  const document = JSON.parse(body) as {
    config?: { digest: string }
    manifests?: { digest: string; platform: { architecture: string } }[]
  }
  const child = document.manifests?.find((entry) => entry.platform.architecture === 'amd64')
  const image = child ? (JSON.parse(await get(child.digest)) as typeof document) : document
  const head = await run('curl', [
    '-sS',
    '--fail',
    '-I',
    '--cacert',
    cert,
    '-H',
    `Authorization: ${authorization}`,
    `https://${host}/v2/${repository}/manifests/${tag}`,
  ])
  return { manifest: /docker-content-digest: (\S+)/i.exec(head)?.[1] as string, config: image.config?.digest as string, body }
}

try {
  const content = makeContent(scratch)
  for (const client of clients)
    await story(`${client.name}: trusts the certificate and logs in`, async () => {
      await client.prepare()
      await client.login('admin', password)
    })
  for (const client of clients) console.log(`      ${await client.version()}`)
  console.log(`      helm ${(await run('helm', ['version', '--short'])).trim()}`)

  for (const pusher of clients) {
    const reference = `${host}/${pusher.name}/debian:v1`
    await story(`${pusher.name} pushes Debian`, async () => {
      await pusher.push(content.debian.layout, reference)
      if (pusher.platforms) assert.equal((await inRegistry(reference)).manifest, content.debian.digest)
    })
    const expected = await inRegistry(reference).catch(() => undefined)
    for (const puller of pullersOf(pusher))
      await story(`${puller.name} pulls what ${pusher.name} pushed`, async () => {
        const got = await puller.pull(reference)
        assert.ok(got.manifest ?? got.config)
        if (got.manifest) assert.equal(got.manifest, expected?.manifest)
        if (got.config) assert.equal(got.config, expected?.config)
      })
  }

  const many = clients.filter((client) => client.platforms)
  for (const [index, pusher] of many.entries()) {
    const reference = `${host}/${pusher.name}/multi:v1`
    await story(`${pusher.name} pushes two platforms with layers of 100 MB`, async () => {
      await pusher.push(content.multi.layout, reference)
      assert.equal((await inRegistry(reference)).manifest, content.multi.digest)
    })
    const next = many[(index + 1) % many.length] as (typeof many)[number]
    await story(`${next.name} pulls both platforms`, async () =>
      assert.equal((await next.pull(reference)).manifest, content.multi.digest),
    )
  }
  for (const puller of clients.filter((client) => !client.platforms))
    await story(`${puller.name} pulls its platform of two`, async () => {
      const reference = `${host}/skopeo/multi:v1`
      assert.equal((await puller.pull(reference)).config, (await inRegistry(reference)).config)
    })

  await story('docker runs a container from what it pulled', async () => {
    assert.match(await dockerRun(target, `${host}/crane/debian:v1`), /ID=debian/)
  })

  const helmEnv = {
    HELM_REGISTRY_CONFIG: join(scratch, 'helm.json'),
    HELM_CACHE_HOME: join(scratch, 'helm-cache'),
    SSL_CERT_FILE: cert,
  }
  await story('helm logs in, pushes and pulls a chart', async () => {
    await run('helm', ['create', join(scratch, 'chart')], helmEnv)
    await run('helm', ['package', join(scratch, 'chart'), '-d', scratch, '--version', '1.2.3+build'], helmEnv)
    await run('helm', ['registry', 'login', host, '-u', 'admin', '--password-stdin', '--ca-file', cert], helmEnv, password)
    await run('helm', ['push', join(scratch, 'chart-1.2.3+build.tgz'), `oci://${host}/charts`, '--ca-file', cert], helmEnv)
    mkdirSync(join(scratch, 'helm-out'))
    await run(
      'helm',
      ['pull', `oci://${host}/charts/chart`, '--version', '1.2.3+build', '-d', join(scratch, 'helm-out'), '--ca-file', cert],
      helmEnv,
    )
    await run('cmp', [join(scratch, 'chart-1.2.3+build.tgz'), join(scratch, 'helm-out', 'chart-1.2.3+build.tgz')])
  })

  const orasArgs = ['--registry-config', join(scratch, 'oras.json'), '--ca-file', cert, '--plain-http=false']
  await story('oras attaches, discovers and copies referrers', async () => {
    const subject = `${host}/oras/debian:v1`
    writeFileSync(join(scratch, 'sbom.json'), '{"sbom":true}')
    await run('oras', [
      'attach',
      ...orasArgs,
      '--disable-path-validation',
      '--artifact-type',
      'application/vnd.example.sbom+json',
      subject,
      `${join(scratch, 'sbom.json')}:application/json`,
    ])
    assert.match(await run('oras', ['discover', ...orasArgs, '--format', 'json', subject]), /vnd\.example\.sbom/)
    const both = [
      '--from-plain-http=false',
      '--from-ca-file',
      cert,
      '--from-registry-config',
      join(scratch, 'oras.json'),
      '--to-plain-http=false',
      '--to-ca-file',
      cert,
      '--to-registry-config',
      join(scratch, 'oras.json'),
    ]
    await run('oras', ['cp', '-r', ...both, subject, `${host}/oras/copied:v1`])
    assert.match(await run('oras', ['discover', ...orasArgs, '--format', 'json', `${host}/oras/copied:v1`]), /vnd\.example\.sbom/)
  })

  const regctlEnv = { SSL_CERT_FILE: cert, REGCTL_CONFIG: join(scratch, 'regctl.json') }
  await story('regctl copies, retags and deletes a tag, and the others stay', async () => {
    await run('regctl', ['image', 'copy', `${host}/skopeo/multi:v1`, `${host}/regctl/copy:v1`], regctlEnv)
    await run('regctl', ['image', 'copy', `${host}/regctl/copy:v1`, `${host}/regctl/copy:v2`], regctlEnv)
    await run('regctl', ['tag', 'delete', `${host}/regctl/copy:v1`], regctlEnv)
    assert.equal((await run('regctl', ['tag', 'ls', `${host}/regctl/copy`], regctlEnv)).trim(), 'v2')
    assert.equal((await inRegistry(`${host}/regctl/copy:v2`)).manifest, content.multi.digest)
  })

  await story('crane lists the catalog and tags', async () => {
    const env = { SSL_CERT_FILE: cert, DOCKER_CONFIG: join(scratch, 'docker-config') }
    assert.match(await run('crane', ['catalog', host], env), /skopeo\/debian/)
    assert.equal((await run('crane', ['ls', `${host}/crane/debian`], env)).trim(), 'v1')
  })

  await story('a wrong password is refused, and the message says so', async () => {
    await assert.rejects(
      run(
        'skopeo',
        [
          'login',
          `--cert-dir=${join(scratch, 'certs')}`,
          `--authfile=${join(scratch, 'none.json')}`,
          '-u',
          'admin',
          '--password-stdin',
          host,
        ],
        {},
        'wrong password',
      ),
      /invalid username\/password|unauthorized|authentication/i,
    )
  })
  await story('a push without a login is refused', async () => {
    await assert.rejects(
      run('crane', ['push', content.debian.layout, `${host}/anon/debian:v1`], {
        SSL_CERT_FILE: cert,
        DOCKER_CONFIG: join(scratch, 'nobody'),
      }),
      /UNAUTHORIZED|DENIED/i,
    )
  })
} finally {
  for (const client of clients) await client.stop?.()
  await registry.remove()
}
if (failed === 0) rmSync(scratch, { recursive: true, force: true })
else console.log(`what the stories left is in ${scratch}`)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
