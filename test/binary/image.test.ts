// The image: on a machine that has nothing else, and in docker, from a registry that serves it.
import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chownSync,
  copyFileSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { docker, makeClients, run, type Target } from '../e2e/clients.ts'
import { makeSmallImage } from '../e2e/content.ts'
import { freePort } from '../support/ports.ts'
import { findTool, killAtExit, listeningPort, makeCertificate, password, startRegistry } from '../support/process.ts'

interface Descriptor {
  digest: string
  platform?: { architecture: string }
}
const blob = (digest: string) => join('dist/image/blobs', digest.replace(':', '/'))
const json = (digest: string) => JSON.parse(readFileSync(blob(digest), 'utf8'))
const top = (JSON.parse(readFileSync('dist/image/index.json', 'utf8')) as { manifests: Descriptor[] }).manifests[0] as Descriptor
const manifests = (json(top.digest) as { manifests: Descriptor[] }).manifests
const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }

const scratch = join(tmpdir(), `mcr-image-${process.pid}`)
mkdirSync(scratch)
after(() => {
  // The daemon leaves the network namespace of its containers mounted.
  for (const [, path] of readFileSync('/proc/mounts', 'utf8').matchAll(/^\S+ (\S+)/gm))
    if (path?.startsWith(`${scratch}/`)) spawnSync('umount', [path], { stdio: 'inherit' })
  rmSync(scratch, { recursive: true, force: true })
})
const small = makeSmallImage(scratch, 'payload')

/** The image's files, for one platform, as a root directory. */
function unpack(architecture: string): string {
  const root = mkdtempSync(join(scratch, `root-${architecture}-`))
  const { digest } = manifests.find(({ platform }) => platform?.architecture === architecture) as Descriptor
  for (const layer of (json(digest) as { layers: Descriptor[] }).layers)
    execFileSync('tar', ['-xzpf', blob(layer.digest), '-C', root, '--numeric-owner'])
  return root
}

/** Its program, as its user, with its environment and `env`. */
function inRoot(root: string, args: string[], env: Record<string, string> = {}): ChildProcess {
  const emulator = root.includes('root-arm64') ? ['/qemu'] : []
  const child = spawn('chroot', ['--userspec=65532:65532', root, ...emulator, '/usr/local/bin/mcr', ...args], {
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      HOME: '/var/lib/mcr',
      MCR_NATIVE_DIR: '/usr/lib/mcr',
      MCR_STORAGE_ROOT: '/var/lib/mcr',
      MCR_STORAGE_FREE_FLOOR: '0',
      MCR_AUTH_BOOTSTRAP_PASSWORD: password,
      MCR_LOG_FORMAT: 'json',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  killAtExit(child)
  return child
}

async function output(child: ChildProcess): Promise<{ status: number | null; text: string }> {
  let text = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (chunk: Buffer) => {
      text += chunk
    })
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, text }
}

/** Pushes and pulls back with skopeo, over HTTPS. */
async function pushAndPull(host: string, certificate: string): Promise<void> {
  const directory = mkdtempSync(join(scratch, 'trust-'))
  copyFileSync(certificate, join(directory, 'ca.crt'))
  const reference = `docker://${host}/team/payload:v1`
  const trust = (side: 'src' | 'dest') => [`--${side}-cert-dir=${directory}`, `--${side}-creds=admin:${password}`]
  await run('skopeo', ['copy', '--preserve-digests', ...trust('dest'), `oci:${small}:v1`, reference])
  await run('skopeo', ['copy', '--preserve-digests', ...trust('src'), reference, `oci:${directory}/back:v1`])
  const entry = (layout: string) =>
    (JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as { manifests: Descriptor[] }).manifests[0]?.digest
  assert.equal(entry(`${directory}/back`), entry(small))
}

async function serveFrom(root: string): Promise<void> {
  const started = performance.now()
  const child = inRoot(root, ['serve', '--tls', 'self-signed'], { MCR_SERVER_LISTEN_ADDR: '127.0.0.1:0' })
  let problems = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    problems += chunk
  })
  const port = await listeningPort(child).catch((error) => assert.fail(`${error}${problems}`))
  await run('curl', ['-sS', '--cacert', join(root, 'var/lib/mcr/tls/cert.pem'), `https://localhost:${port}/v2/`])
  const ms = performance.now() - started
  await pushAndPull(`localhost:${port}`, join(root, 'var/lib/mcr/tls/cert.pem'))
  const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]
  console.log(
    `${root.includes('arm64') ? 'arm64, emulated' : 'here'}: first answer over HTTPS after ${ms.toFixed(0)} ms, ${Number(rss) >> 10} MiB after a push and a pull`,
  )
  child.kill('SIGTERM')
  const [status] = (await once(child, 'exit')) as [number | null]
  assert.equal(status, 0)
}

const architecture = { x64: 'amd64', arm64: 'arm64' }[process.arch as string] as string

test('on a machine with nothing but a few libraries it starts, and takes a push and a pull over HTTPS', async () => {
  const root = unpack(architecture)
  // No shell, no Node, no package manager: the program is the only one there is.
  const programs = globSync('{bin,sbin,usr/bin,usr/sbin,usr/local/bin,usr/local/sbin}/*', { cwd: root })
  assert.deepEqual(programs, ['usr/local/bin/mcr'])
  const data = statSync(join(root, 'var/lib/mcr'))
  assert.deepEqual([data.uid, data.gid, data.mode & 0o777], [65_532, 65_532, 0o700])
  const about = await output(inRoot(root, ['--version', '--verbose']))
  assert.match(about.text, /single executable\n.*\nlibsql .*, sqlite 3\./)
  await serveFrom(root)

  const probed = await output(inRoot(root, ['probe'], { MCR_SERVER_LISTEN_ADDR: `127.0.0.1:${await freePort()}` }))
  assert.equal(probed.status, 6)
  assert.match(probed.text, /cannot be reached/)
})

test('where libatomic is missing the system’s loader names it, and the documentation names its package', async () => {
  const root = unpack(architecture)
  const [library] = globSync('usr/lib/*/libatomic.so.1', { cwd: root }) as [string]
  renameSync(join(root, library), join(root, 'libatomic'))
  const { status, text } = await output(inRoot(root, ['--version']))
  assert.equal(status, 127)
  assert.match(text, /libatomic\.so\.1: cannot open shared object file/)
  assert.match(
    readFileSync('docs/install.md', 'utf8'),
    /libatomic\.so\.1: cannot open shared object file[\s\S]*apt install libatomic1/,
  )
})

test('arm64, emulated: the same', async () => {
  const root = unpack('arm64')
  copyFileSync(findTool('qemu-aarch64-static') as string, join(root, 'qemu'))
  const about = await output(inRoot(root, ['--version', '--verbose']))
  assert.match(about.text, /linux-arm64\nlibsql .*, sqlite 3\./)
  await serveFrom(root)
})

test('the registry serves its own image; docker pulls it, runs it, and pushes to what it runs', async () => {
  const certificate = makeCertificate(scratch)
  const registry = await startRegistry({ tls: certificate })
  const target: Target = { host: registry.host, cert: certificate.cert, scratch }
  const client = makeClients(target).find(({ name }) => name === 'docker')
  assert.ok(client)
  try {
    const trust = join(scratch, 'trust')
    mkdirSync(trust)
    copyFileSync(certificate.cert, join(trust, 'ca.crt'))
    const reference = `${registry.host}/mcr/mcr:${version}`
    const words = ['copy', '--all', '--preserve-digests', `--dest-cert-dir=${trust}`, `--dest-creds=admin:${password}`]
    await run('skopeo', [...words, `oci:dist/image:${version}`, `docker://${reference}`])
    await client.prepare()
    await client.login('admin', password)
    await docker(target, ['pull', '-q', reference])

    const port = await freePort()
    const settings = Object.entries({
      MCR_SERVER_LISTEN_ADDR: `127.0.0.1:${port}`,
      MCR_AUTH_BOOTSTRAP_PASSWORD: password,
      MCR_STORAGE_FREE_FLOOR: '0',
    }).flatMap(([name, value]) => ['-e', `${name}=${value}`])
    const hard = ['--read-only', '--cap-drop=ALL', '--security-opt=no-new-privileges']
    await docker(target, [
      'run',
      '-d',
      '--name',
      'mcr',
      '--network',
      'host',
      '--health-interval=1s',
      ...hard,
      ...settings,
      reference,
    ])
    const inspect = async (format: string) => (await docker(target, ['inspect', '-f', format, 'mcr'])).trim()
    for (let wait = 0; wait < 120 && (await inspect('{{.State.Health.Status}}')) !== 'healthy'; wait++)
      await new Promise((resolve) => setTimeout(resolve, 500))
    assert.equal(await inspect('{{.State.Health.Status}}'), 'healthy', await docker(target, ['logs', 'mcr']))
    assert.equal(await inspect('{{.Config.User}}'), '65532:65532')
    assert.equal(await inspect('{{index .Config.Labels "org.opencontainers.image.version"}}'), version)
    await docker(target, ['cp', 'mcr:/var/lib/mcr/tls/cert.pem', join(scratch, 'container.pem')])
    await pushAndPull(`localhost:${port}`, join(scratch, 'container.pem'))
    assert.match(await docker(target, ['exec', 'mcr', '/usr/local/bin/mcr', 'repo', 'list']), /team\/payload/)
    await docker(target, ['stop', '-t', '30', 'mcr'])
    assert.equal(await inspect('{{.State.ExitCode}}'), '0')
    await docker(target, ['rm', '-v', 'mcr'])
    await startByCompose(reference)
  } finally {
    await client.stop?.()
    await registry.remove()
  }
})

/** The compose file as it is, but on the host's network: this daemon has no other. */
async function startByCompose(reference: string): Promise<void> {
  const port = await freePort()
  const file = join(scratch, 'compose.yaml')
  const text = readFileSync('deploy/compose.yaml', 'utf8')
  writeFileSync(
    file,
    text
      .replace(/^ +ports:\n.*\n/m, '    network_mode: host\n')
      .replace('    environment:\n', `$&      MCR_SERVER_LISTEN_ADDR: 127.0.0.1:${port}\n`),
  )
  const secret = join(scratch, 'admin-password')
  writeFileSync(secret, `${password}\n`, { mode: 0o600 })
  chownSync(secret, 65_532, 65_532)
  const env = {
    DOCKER_HOST: `unix://${join(scratch, 'docker/docker.sock')}`,
    MCR_IMAGE: reference,
    MCR_PUBLIC_URL: `http://localhost:${port}`,
    MCR_ADMIN_PASSWORD_FILE: secret,
  }
  await run('docker-compose', ['-p', 'mcr', '-f', file, 'up', '-d'], env)
  const login = ['-sS', '--retry', '60', '--retry-connrefused', '--retry-delay', '1', '-u', `admin:${password}`]
  // What curl said while it tried again stands beside the answer.
  assert.match(await run('curl', [...login, `http://localhost:${port}/v2/`]), /^\{\}/)
  await run('docker-compose', ['-p', 'mcr', '-f', file, 'down', '-v', '-t', '30'], env)
}

test('every blob of the layout is what its name says', () => {
  const sums = spawnSync('sh', ['-c', 'cd dist/image/blobs/sha256 && sha256sum *'], { encoding: 'utf8' })
    .stdout.trim()
    .split('\n')
  assert.ok(sums.length >= 5)
  for (const line of sums) assert.equal(line.split(/\s+/)[0], line.split(/\s+/)[1])
})
