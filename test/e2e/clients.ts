import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { findTool, killAtExit } from '../support/process.ts'

/** What a client needs to know about the registry it talks to. */
export interface Target {
  /** `host:port` */
  host: string
  cert: string
  scratch: string
}

export interface Client {
  name: string
  version(): Promise<string>
  /** Makes it ready: trust, and what it needs to run. */
  prepare(): Promise<void>
  /** From now on it is this account. */
  login(name: string, secret: string): Promise<void>
  /** Pushes an OCI layout of one entry, with every platform where it can. */
  push(layout: string, reference: string): Promise<void>
  /** Pulls into what the client keeps; answers the digests it then has: of the manifest where it tells, else of the configuration. */
  pull(reference: string): Promise<{ manifest?: string; config?: string }>
  /** Whether it carries an index with all its platforms. */
  platforms: boolean
  stop?(): Promise<void>
}

/** Runs a command; what it printed, or an error with all of it. */
export async function run(command: string, args: string[], env: Record<string, string> = {}, input?: string): Promise<string> {
  const path = findTool(command)
  if (!path) throw new Error(`${command} is not installed`)
  return await new Promise((resolve, reject) => {
    const child = execFile(
      path,
      args,
      { env: { ...process.env, ...env }, timeout: 180_000, maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        if (error)
          reject(new Error(`${command} ${args.join(' ')}: ${error.message.split('\n')[0]}\n${stdout}\n${stderr}`.slice(0, 4000)))
        else resolve(`${stdout}${stderr}`)
      },
    )
    child.stdin?.end(input)
  })
}

const entryOf = (layout: string) =>
  (JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as { manifests: { digest: string }[] }).manifests[0]
    ?.digest as string

/** A fresh directory for one pull. */
function fresh(target: Target, name: string): string {
  const path = join(target.scratch, `pulled-${name}-${Math.random().toString(36).slice(2)}`)
  return path
}

export function makeClients(target: Target): Client[] {
  const { host, cert, scratch } = target
  const certs = join(scratch, 'certs')
  mkdirSync(certs, { recursive: true })
  cpSync(cert, join(certs, 'ca.crt'))
  const auth = join(scratch, 'auth.json')
  const goEnv = { SSL_CERT_FILE: cert, DOCKER_CONFIG: join(scratch, 'docker-config') }
  const containers = [`--cert-dir=${certs}`, `--authfile=${auth}`]
  const storage = (name: string) => [
    '--root',
    join(scratch, name, 'root'),
    '--runroot',
    join(scratch, name, 'run'),
    '--storage-driver',
    'vfs',
  ]

  const skopeo: Client = {
    name: 'skopeo',
    platforms: true,
    version: async () => (await run('skopeo', ['--version'])).trim(),
    prepare: async () => undefined,
    login: async (name, secret) =>
      void (await run('skopeo', ['login', ...containers, '-u', name, '--password-stdin', host], {}, secret)),
    push: async (layout, reference) =>
      void (await run('skopeo', [
        'copy',
        '--all',
        '--preserve-digests',
        `--dest-cert-dir=${certs}`,
        `--authfile=${auth}`,
        `oci:${layout}:v1`,
        `docker://${reference}`,
      ])),
    async pull(reference) {
      const to = fresh(target, 'skopeo')
      await run('skopeo', [
        'copy',
        '--all',
        '--preserve-digests',
        `--src-cert-dir=${certs}`,
        `--authfile=${auth}`,
        `docker://${reference}`,
        `oci:${to}:v1`,
      ])
      return { manifest: await verifiedLayout(to) }
    },
  }
  const crane: Client = {
    name: 'crane',
    platforms: true,
    version: async () => `crane ${(await run('crane', ['version'])).trim()}`,
    prepare: async () => undefined,
    login: async (name, secret) => void (await run('crane', ['auth', 'login', host, '-u', name, '-p', secret], goEnv)),
    push: async (layout, reference) => void (await run('crane', ['push', layout, reference], goEnv)),
    async pull(reference) {
      const to = fresh(target, 'crane')
      await run('crane', ['pull', '--format=oci', reference, to], goEnv)
      return { manifest: await verifiedLayout(to) }
    },
  }
  // It takes plain HTTP for granted on localhost.
  const orasConfig = ['--registry-config', join(scratch, 'oras.json'), '--ca-file', cert, '--plain-http=false']
  const oras: Client = {
    name: 'oras',
    platforms: true,
    version: async () => `oras ${/Version: +(\S+)/.exec(await run('oras', ['version']))?.[1]}`,
    prepare: async () => undefined,
    login: async (name, secret) =>
      void (await run('oras', ['login', ...orasConfig, '-u', name, '--password-stdin', host], {}, secret)),
    push: async (layout, reference) =>
      void (await run('oras', [
        'cp',
        '--from-oci-layout',
        `${layout}:v1`,
        '--to-plain-http=false',
        '--to-ca-file',
        cert,
        '--to-registry-config',
        join(scratch, 'oras.json'),
        reference,
      ])),
    async pull(reference) {
      const to = fresh(target, 'oras')
      await run('oras', [
        'cp',
        '--to-oci-layout',
        '--from-plain-http=false',
        '--from-ca-file',
        cert,
        '--from-registry-config',
        join(scratch, 'oras.json'),
        reference,
        `${to}:v1`,
      ])
      return { manifest: await verifiedLayout(to) }
    },
  }
  const regctlEnv = { SSL_CERT_FILE: cert, REGCTL_CONFIG: join(scratch, 'regctl.json') }
  const regctl: Client = {
    name: 'regctl',
    platforms: true,
    version: async () => `regctl ${/VCSTag: +(\S+)/.exec(await run('regctl', ['version']))?.[1]}`,
    prepare: async () => undefined,
    login: async (name, secret) =>
      void (await run('regctl', ['registry', 'login', host, '-u', name, '--pass-stdin'], regctlEnv, secret)),
    push: async (layout, reference) =>
      void (await run('regctl', ['image', 'copy', `ocidir://${layout}:v1`, reference], regctlEnv)),
    async pull(reference) {
      const to = fresh(target, 'regctl')
      await run('regctl', ['image', 'copy', reference, `ocidir://${to}:v1`], regctlEnv)
      return { manifest: await verifiedLayout(to) }
    },
  }
  const engine = (name: 'podman' | 'buildah'): Client => ({
    name,
    platforms: false,
    version: async () => (await run(name, ['--version'])).trim(),
    prepare: async () => undefined,
    login: async (user, secret) =>
      void (await run(name, ['login', ...containers, '-u', user, '--password-stdin', host], {}, secret)),
    async push(layout, reference) {
      const id = (await run(name, [...storage(name), 'pull', '-q', `oci:${layout}:v1`])).trim().split('\n').at(-1) as string
      await run(name, [...storage(name), 'push', ...containers, id, `docker://${reference}`])
    },
    async pull(reference) {
      const id = (await run(name, [...storage(name), 'pull', '-q', ...containers, `docker://${reference}`]))
        .trim()
        .split('\n')
        .at(-1) as string
      await run(name, [...storage(name), 'rmi', '-f', '-a'])
      return { config: `sha256:${id}` }
    },
  })
  return [skopeo, crane, oras, regctl, engine('podman'), engine('buildah'), dockerClient(target), ctrClient(target)]
}

function dockerClient(target: Target): Client {
  const { host, cert, scratch } = target
  const data = join(scratch, 'docker')
  const socket = `unix://${data}/docker.sock`
  const trust = `/etc/docker/certs.d/${host}`
  const ask = (args: string[], input?: string) => docker(target, args, input)
  let daemon: ChildProcess | undefined
  return {
    name: 'docker',
    platforms: false,
    version: async () => `docker ${(await ask(['version', '-f', '{{.Client.Version}}, daemon {{.Server.Version}}'])).trim()}`,
    async prepare() {
      mkdirSync(data, { recursive: true })
      // The daemon takes trust from here alone; the folder is this test's own, by its port.
      mkdirSync(trust, { recursive: true })
      cpSync(cert, join(trust, 'ca.crt'))
      daemon = await background(
        'dockerd',
        [
          ...['--data-root', join(data, 'root'), '--exec-root', join(data, 'exec'), '-H', socket, '--pidfile', join(data, 'pid')],
          ...['--iptables=false', '--ip6tables=false', '--bridge=none', '--storage-driver=vfs'],
        ],
        () => ask(['info']),
      )
    },
    login: async (name, secret) => void (await ask(['login', '-u', name, '--password-stdin', host], secret)),
    async push(layout, reference) {
      const archive = join(scratch, 'docker-push.tar')
      rmSync(archive, { force: true })
      await run('skopeo', ['copy', `oci:${layout}:v1`, `docker-archive:${archive}:${reference}`])
      await ask(['load', '-q', '-i', archive])
      await ask(['push', '-q', reference])
      await ask(['rmi', '-f', reference])
    },
    async pull(reference) {
      await ask(['pull', '-q', reference])
      const id = (await ask(['inspect', '-f', '{{.Id}}', reference])).trim()
      await ask(['rmi', '-f', reference])
      return { config: id }
    },
    async stop() {
      rmSync(trust, { recursive: true, force: true })
      await end(daemon)
    },
  }
}

/** Pulls with docker and runs what came; the container's output. */
export async function dockerRun(target: Target, reference: string): Promise<string> {
  return await docker(target, ['run', '--rm', '--network', 'none', reference])
}

/** A docker command to the daemon that the client `docker` has started. Shape: what it printed. */
export async function docker({ scratch }: Target, args: string[], input?: string): Promise<string> {
  const base = ['-H', `unix://${join(scratch, 'docker')}/docker.sock`, '--config', join(scratch, 'docker-cli')]
  return await run('docker', [...base, ...args], {}, input)
}

function ctrClient({ host, cert, scratch }: Target): Client {
  const data = join(scratch, 'containerd')
  const address = join(data, 'containerd.sock')
  const hosts = join(data, 'hosts')
  const ctr = (...args: string[]) => run('ctr', ['-a', address, ...args])
  let login: string[] = []
  let daemon: ChildProcess | undefined
  return {
    name: 'ctr',
    platforms: true,
    version: async () => (await run('ctr', ['--version'])).trim(),
    async prepare() {
      mkdirSync(join(hosts, host), { recursive: true })
      writeFileSync(join(hosts, host, 'hosts.toml'), `server = "https://${host}"\n[host."https://${host}"]\n  ca = "${cert}"\n`)
      const config = join(data, 'config.toml')
      writeFileSync(config, `version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n`)
      daemon = await background(
        'containerd',
        ['-c', config, '-a', address, '--root', join(data, 'root'), '--state', join(data, 'state')],
        () => ctr('version'),
      )
    },
    async login(name, secret) {
      login = ['--hosts-dir', hosts, '--user', `${name}:${secret}`]
    },
    async push(layout, reference) {
      const archive = join(scratch, 'ctr-push.tar')
      await run('tar', ['-cf', archive, '-C', layout, '.'])
      await ctr('images', 'import', '--all-platforms', '--no-unpack', '--digests', '--base-name', 'local', archive)
      await ctr('images', 'tag', `local@${entryOf(layout)}`, reference).catch(
        async () => void (await ctr('images', 'tag', '--force', `local@${entryOf(layout)}`, reference)),
      )
      const push = () => ctr('images', 'push', ...login, reference)
      await push().catch(async (error) => {
        // ctr reads what it sends from its own daemon; that stream now and then breaks on a busy machine before a byte has reached us.
        if (!String(error).includes('rpc error: code = Internal desc = unexpected EOF')) throw error
        await push()
      })
      await ctr('images', 'rm', reference, `local@${entryOf(layout)}`)
    },
    async pull(reference) {
      await ctr('content', 'fetch', ...login, '--all-platforms', reference)
      const line = (await ctr('images', 'ls', `name==${reference}`)).split('\n').find((text) => text.startsWith(reference))
      await ctr('images', 'rm', reference)
      return { manifest: /sha256:[0-9a-f]{64}/.exec(line ?? '')?.[0] }
    },
    stop: () => end(daemon),
  }
}

/** Starts a daemon and waits until `ready` does not fail. */
async function background(command: string, args: string[], ready: () => Promise<unknown>): Promise<ChildProcess> {
  const path = findTool(command)
  if (!path) throw new Error(`${command} is not installed`)
  const child = spawn(path, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  })
  let log = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    log = `${log}${chunk}`.slice(-4000)
  })
  killAtExit(child)
  for (let attempt = 0; attempt < 150; attempt++) {
    if (child.exitCode !== null) break
    try {
      await ready()
      return child
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }
  child.kill('SIGKILL')
  throw new Error(`${command} did not start:\n${log}`)
}

async function end(child: ChildProcess | undefined): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  await Promise.race([once(child, 'exit'), new Promise((resolve) => setTimeout(resolve, 15_000))])
  child.kill('SIGKILL')
}

/** Checks every blob of a pulled layout against its name, then lets it go. Shape: the digest of its entry. */
async function verifiedLayout(layout: string): Promise<string> {
  const folder = join(layout, 'blobs/sha256')
  const sums = await run('sh', ['-c', `cd ${folder} && sha256sum *`])
  for (const line of sums.trim().split('\n')) {
    const [sum, name] = line.split(/\s+/)
    if (sum !== name) throw new Error(`${name} hashes to ${sum}`)
  }
  const entry = entryOf(layout)
  requireAll(layout, entry)
  rmSync(layout, { recursive: true, force: true })
  return entry
}

/** Everything that a manifest or index refers to must have come along. */
function requireAll(layout: string, digest: string): void {
  const path = join(layout, 'blobs/sha256', digest.slice(7))
  if (!existsSync(path))
    throw new Error(`${digest} did not come; there are ${readdirSync(join(layout, 'blobs/sha256')).length} blobs`)
  const { manifests, config, layers } = JSON.parse(readFileSync(path, 'utf8')) as Record<
    'manifests' | 'layers',
    { digest: string }[]
  > & { config?: { digest: string } }
  for (const child of manifests ?? []) requireAll(layout, child.digest)
  for (const blob of [config, ...(layers ?? [])])
    if (blob && !existsSync(join(layout, 'blobs/sha256', blob.digest.slice(7)))) throw new Error(`${blob.digest} did not come`)
}
