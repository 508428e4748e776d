// Builds the container image as an OCI layout in dist/image: `npm run build:image`, or `-- linux-x64` for one platform. No container engine
// takes part: Debian packages and the executable are two layers of files, the rest is JSON.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { hashFile } from './contents.ts'
import { makeDebianRoot } from './debian.ts'
import { fetchPackage } from './packages.ts'
import { isPlatform, type Platform, platforms } from './platforms.ts'

// The modes in the layers are these, whoever builds.
process.umask(0o022)
/** Who the registry is in the container; a number, so that `runAsNonRoot` can be checked. */
const user = 65_532
const data = '/var/lib/mcr'
const native = '/usr/lib/mcr'

const known = Object.keys(platforms).filter((name) => isPlatform(name) && platforms[name].oci) as Platform[]
const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !known.includes(name as Platform))
if (unknown.length > 0) {
  console.error(`no image is made for ${unknown.join(', ')}; there are ${known.join(', ')}`)
  process.exit(2)
}
const list = wanted.length > 0 ? (wanted as Platform[]) : known
const { version, description, license } = JSON.parse(readFileSync('package.json', 'utf8')) as Record<string, string>
const git = (...words: string[]) => execFileSync('git', words, { encoding: 'utf8' }).trim()
const seconds = process.env.SOURCE_DATE_EPOCH ?? git('log', '-1', '--format=%ct')
const created = new Date(Number(seconds) * 1000).toISOString().replace('.000', '')
const annotations = {
  'org.opencontainers.image.title': 'MCR',
  'org.opencontainers.image.description': description as string,
  'org.opencontainers.image.version': version as string,
  'org.opencontainers.image.revision': git('rev-parse', 'HEAD'),
  'org.opencontainers.image.licenses': license as string,
  'org.opencontainers.image.created': created,
}

const output = 'dist/image'
const work = 'dist/work-image'
for (const folder of [output, work]) rmSync(folder, { recursive: true, force: true })
mkdirSync(join(output, 'blobs/sha256'), { recursive: true })
execFileSync(process.execPath, ['deploy/build/binary.ts', ...list], { stdio: 'inherit' })

const manifests = []
for (const platform of list) manifests.push(await makeManifest(platform))
const index = put(
  JSON.stringify({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests, annotations }),
  'application/vnd.oci.image.index.v1+json',
)
writeFileSync(join(output, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
writeFileSync(
  join(output, 'index.json'),
  JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests: [{ ...index, annotations: { 'org.opencontainers.image.ref.name': version } }],
  }),
)
rmSync(work, { recursive: true })
console.log(
  `${output}: ${index.digest}, ${list.join(' and ')}; push it with skopeo copy --all oci:${output}:${version} docker://…`,
)

async function makeManifest(platform: Platform) {
  const { debian, oci } = platforms[platform]
  const base = join(work, `${oci}-base`)
  const own = join(work, `${oci}-mcr`)
  const versions = makeDebianRoot(debian as string, base)
  describeUser(base)
  placeProgram(platform, own)
  const layers = [
    await makeLayer(
      base,
      `Debian packages: ${Object.entries(versions)
        .map(([name, at]) => `${name} ${at}`)
        .join(', ')}`,
    ),
    await makeLayer(own, `MCR ${version}`, [data.slice(1)]),
  ]
  const config = put(
    JSON.stringify({
      created,
      architecture: oci,
      os: 'linux',
      config: {
        User: `${user}:${user}`,
        ExposedPorts: { '5000/tcp': {} },
        Env: [
          'PATH=/usr/local/bin',
          `HOME=${data}`,
          `MCR_STORAGE_ROOT=${data}`,
          'MCR_SERVER_LISTEN_ADDR=0.0.0.0:5000',
          `MCR_NATIVE_DIR=${native}`,
        ],
        Entrypoint: ['/usr/local/bin/mcr'],
        Cmd: ['serve', '--tls', 'self-signed'],
        Volumes: { [data]: {} },
        WorkingDir: data,
        StopSignal: 'SIGTERM',
        Labels: annotations,
        // Docker's own field, which the specification of OCI leaves out and Docker reads all the same. Nanoseconds.
        Healthcheck: {
          Test: ['CMD', '/usr/local/bin/mcr', 'probe'],
          Interval: 30e9,
          Timeout: 10e9,
          StartPeriod: 10e9,
          Retries: 3,
        },
      },
      rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
      history: layers.map(({ comment }) => ({ created, created_by: 'deploy/build/image.ts', comment })),
    }),
    'application/vnd.oci.image.config.v1+json',
  )
  const manifest = put(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config,
      layers: layers.map(({ descriptor }) => descriptor),
      annotations,
    }),
    'application/vnd.oci.image.manifest.v1+json',
  )
  return { ...manifest, platform: { architecture: oci, os: 'linux', ...(oci === 'arm64' ? { variant: 'v8' } : {}) } }
}

function describeUser(root: string): void {
  writeFileSync(
    join(root, 'etc/passwd'),
    `root:x:0:0:root:/root:/sbin/nologin\nmcr:x:${user}:${user}:MCR:${data}:/sbin/nologin\n`,
  )
  writeFileSync(join(root, 'etc/group'), `root:x:0:\nmcr:x:${user}:\n`)
  writeFileSync(join(root, 'etc/nsswitch.conf'), 'passwd: files\ngroup: files\nhosts: files dns\n')
  chmodSync(join(root, 'tmp'), 0o1777)
}

/** The executable, and its addon where root alone can write, so that nothing else of the container needs to be writable. */
function placeProgram(platform: Platform, root: string): void {
  for (const folder of ['usr/local/bin', native.slice(1), data.slice(1)])
    mkdirSync(join(root, folder), { recursive: true, mode: 0o755 })
  copyFileSync(`dist/mcr-${platform}`, join(root, 'usr/local/bin/mcr'))
  const addon = readFileSync(join(fetchPackage(platforms[platform].addon), 'index.node'))
  writeFileSync(join(root, native.slice(1), `${createHash('sha256').update(addon).digest('hex')}.node`), addon, { mode: 0o555 })
  chmodSync(join(root, data.slice(1)), 0o700)
}

/** A layer of a tree: everything is root's but `ours`; order, times and owners are the same wherever it is built. */
async function makeLayer(root: string, comment: string, ours: string[] = []) {
  const file = join(work, 'layer.tar')
  const tar = (owner: number, ...words: string[]) =>
    execFileSync('tar', [
      '--sort=name',
      `--mtime=@${seconds}`,
      '--numeric-owner',
      `--owner=${owner}`,
      `--group=${owner}`,
      '--format=gnu',
      '-C',
      root,
      ...words,
    ])
  tar(0, '-cf', file, ...ours.map((path) => `--exclude=${path}`), '.')
  for (const path of ours) tar(user, '-rf', file, path)
  const diffId = `sha256:${await hashFile(file)}`
  const descriptor = put(gzipSync(readFileSync(file), { level: 9 }), 'application/vnd.oci.image.layer.v1.tar+gzip')
  rmSync(file)
  return { diffId, descriptor, comment }
}

function put(bytes: Buffer | string, mediaType: string) {
  const hex = createHash('sha256').update(bytes).digest('hex')
  const file = join(output, 'blobs/sha256', hex)
  writeFileSync(`${file}.new`, bytes)
  renameSync(`${file}.new`, file)
  return { mediaType, digest: `sha256:${hex}`, size: statSync(file).size }
}
