import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

interface Layer {
  blob: Buffer
  diffId: string
}
interface Platform {
  architecture: string
  layers: Layer[]
}

/** A Debian root file system as a gzipped tar, made by debootstrap once and kept. */
function debianLayer(): Layer {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'mcr-test')
  const file = join(cache, 'debian.tar.gz')
  if (!existsSync(file)) {
    mkdirSync(cache, { recursive: true })
    const root = join(cache, 'debian-root')
    rmSync(root, { recursive: true, force: true })
    const suite = /VERSION_CODENAME=(\w+)/.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'bookworm'
    // The mirror is the one this machine uses itself.
    const targets = execFileSync('apt-get', ['indextargets', '--format', '$(REPO_URI) $(CODENAME)', 'Created-By: Packages'], {
      encoding: 'utf8',
    })
    const mirror = targets
      .split('\n')
      .find((line) => line.endsWith(` ${suite}`))
      ?.split(' ')[0]
    execFileSync('debootstrap', ['--variant=minbase', suite, root, ...(mirror ? [mirror] : [])], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    execFileSync('sh', [
      '-c',
      `cd ${root} && rm -rf var/cache/apt/* var/lib/apt/lists/* dev/* && tar --numeric-owner -cf - . | gzip -n -6 > ${file}.new`,
    ])
    renameSync(`${file}.new`, file)
    rmSync(root, { recursive: true, force: true })
  }
  const blob = readFileSync(file)
  const tar = execFileSync('gzip', ['-dc', file], { maxBuffer: 1024 * 1024 * 1024 })
  return { blob, diffId: `sha256:${sha256(tar)}` }
}

/** A layer of one file of random bytes: nothing compresses it, so its size is what it says. */
function randomLayer(directory: string, name: string, megabytes: number): Layer {
  const folder = join(directory, `layer-${name}`)
  mkdirSync(folder)
  writeFileSync(join(folder, name), randomBytes(megabytes * 1024 * 1024))
  const tar = execFileSync('tar', ['--numeric-owner', '-cf', '-', '-C', folder, '.'], { maxBuffer: 1024 * 1024 * 1024 })
  rmSync(folder, { recursive: true })
  const blob = execFileSync('gzip', ['-n', '-1'], { input: tar, maxBuffer: 1024 * 1024 * 1024 })
  return { blob, diffId: `sha256:${sha256(tar)}` }
}

/** An OCI layout in `directory` with one entry: an image, or with several platforms an index. Shape: the entry's digest. */
function writeLayout(directory: string, platforms: Platform[]): string {
  mkdirSync(join(directory, 'blobs/sha256'), { recursive: true })
  const put = (bytes: Buffer) => {
    const hex = sha256(bytes)
    writeFileSync(join(directory, 'blobs/sha256', hex), bytes)
    return { digest: `sha256:${hex}`, size: bytes.length }
  }
  const json = (value: object) => put(Buffer.from(JSON.stringify(value)))
  const manifests = platforms.map(({ architecture, layers }) => {
    const config = json({
      architecture,
      os: 'linux',
      created: '2026-01-01T00:00:00Z',
      config: {
        Cmd: ['/bin/cat', '/etc/os-release'],
        Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
      },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) },
      history: layers.map(() => ({ created: '2026-01-01T00:00:00Z', created_by: 'test' })),
    })
    const manifest = json({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers: layers.map((layer) => ({ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', ...put(layer.blob) })),
    })
    return { mediaType: 'application/vnd.oci.image.manifest.v1+json', ...manifest, platform: { architecture, os: 'linux' } }
  })
  const [only] = manifests as [(typeof manifests)[number]]
  const entry =
    manifests.length === 1
      ? { mediaType: only.mediaType, digest: only.digest, size: only.size }
      : {
          mediaType: 'application/vnd.oci.image.index.v1+json',
          ...json({ schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests }),
        }
  writeFileSync(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
  const annotations = { 'org.opencontainers.image.ref.name': 'v1' }
  const index = { schemaVersion: 2, mediaType: 'application/vnd.oci.image.index.v1+json', manifests: [{ ...entry, annotations }] }
  writeFileSync(join(directory, 'index.json'), JSON.stringify(index))
  return entry.digest
}

export interface Content {
  debian: { layout: string; digest: string }
  multi: { layout: string; digest: string }
}

/** What the stories push: a Debian image that runs, and an image of two platforms with layers of 100 MB and more. */
export function makeContent(directory: string): Content {
  const debian = debianLayer()
  const shared = randomLayer(directory, 'shared', 100)
  const own = (architecture: string) => randomLayer(directory, architecture, 20)
  const layouts = { debian: join(directory, 'debian'), multi: join(directory, 'multi') }
  return {
    debian: { layout: layouts.debian, digest: writeLayout(layouts.debian, [{ architecture: 'amd64', layers: [debian] }]) },
    multi: {
      layout: layouts.multi,
      digest: writeLayout(layouts.multi, [
        { architecture: 'amd64', layers: [debian, shared, own('amd64')] },
        { architecture: 'arm64', layers: [shared, own('arm64')] },
      ]),
    },
  }
}

/** A small image of its own, for stories about who may rather than about bytes. Shape: its layout. */
export function makeSmallImage(directory: string, name: string): string {
  const layout = join(directory, `small-${name}`)
  const folder = join(directory, `small-layer-${name}`)
  mkdirSync(folder)
  writeFileSync(join(folder, 'note'), name)
  const tar = execFileSync('tar', ['--numeric-owner', '-cf', '-', '-C', folder, '.'])
  writeLayout(layout, [
    { architecture: 'amd64', layers: [{ blob: execFileSync('gzip', ['-n'], { input: tar }), diffId: `sha256:${sha256(tar)}` }] },
  ])
  return layout
}
