import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

/** What the executable needs of a system: its libraries, and who to trust. */
export const debianPackages = ['base-files', 'ca-certificates', 'libatomic1', 'libc6', 'libgcc-s1', 'libstdc++6']

/**
 * A root of nothing but those packages, unpacked, without running anything of theirs: no shell, no package manager. Packages come from the
 * sources of this machine's apt, which checks their signatures, for whatever architecture. What is installed stands in
 * var/lib/dpkg/status.d, where scanners look. Shape: their names and versions. Errors: apt's or dpkg's own.
 */
export function makeDebianRoot(architecture: string, root: string): Record<string, string> {
  const state = resolve('node_modules/.cache/mcr-build', `apt-${architecture}`)
  const archives = join(state, 'archives')
  rmSync(archives, { recursive: true, force: true })
  for (const folder of ['lists/partial', 'cache/archives/partial', 'archives'])
    mkdirSync(join(state, folder), { recursive: true })
  writeFileSync(join(state, 'status'), '')
  const options = Object.entries({
    'APT::Architecture': architecture,
    'APT::Architectures::': architecture,
    'APT::Sandbox::User': 'root',
    'Dir::State': state,
    'Dir::State::lists': join(state, 'lists'),
    'Dir::State::status': join(state, 'status'),
    'Dir::Cache': join(state, 'cache'),
    'Acquire::Languages': 'none',
  }).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  const apt = (...words: string[]) =>
    execFileSync('apt-get', [...options, '-qq', ...words], { cwd: archives, stdio: ['ignore', 'ignore', 'inherit'] })
  apt('update')
  const control = execFileSync('apt-cache', [...options, 'show', 'libatomic1'], { encoding: 'utf8' })
  // Its licence, which the compiler's libraries share, is in a package that has the compiler's version in its name.
  const base = /gcc-[0-9]+-base/.exec(control)?.[0] ?? []
  apt('download', ...debianPackages.concat(base).map((name) => `${name}:${architecture}`))

  mkdirSync(join(root, 'var/lib/dpkg/status.d'), { recursive: true })
  const versions: Record<string, string> = {}
  for (const archive of readdirSync(archives).sort()) {
    execFileSync('dpkg-deb', ['--extract', join(archives, archive), root])
    const fields = execFileSync('dpkg-deb', ['--field', join(archives, archive)], { encoding: 'utf8' })
    const [name, version] = ['Package', 'Version'].map((field) => new RegExp(`^${field}: (.+)$`, 'm').exec(fields)?.[1]) as [
      string,
      string,
    ]
    writeFileSync(join(root, 'var/lib/dpkg/status.d', name), fields)
    versions[name] = version
  }
  tidy(root)
  return versions
}

/** Licences stay, the rest of the documentation goes; the certificates become the one file that programs read. */
function tidy(root: string): void {
  for (const folder of ['man', 'info', 'lintian', 'locale', 'base-files', 'bug'])
    rmSync(join(root, 'usr/share', folder), { recursive: true, force: true })
  const documentation = join(root, 'usr/share/doc')
  for (const folder of readdirSync(documentation, { withFileTypes: true }).filter((entry) => entry.isDirectory()))
    for (const name of readdirSync(join(documentation, folder.name)))
      if (name !== 'copyright') rmSync(join(documentation, folder.name, name), { recursive: true })
  // The one program of theirs: a script, and there is no shell.
  rmSync(join(root, 'usr/sbin/update-ca-certificates'), { force: true })
  // Modules of iconv, which nothing here uses.
  for (const name of readdirSync(join(root, 'usr/lib')))
    rmSync(join(root, 'usr/lib', name, 'gconv'), { recursive: true, force: true })
  const authorities = join(root, 'usr/share/ca-certificates/mozilla')
  mkdirSync(join(root, 'etc/ssl/certs'), { recursive: true })
  writeFileSync(
    join(root, 'etc/ssl/certs/ca-certificates.crt'),
    readdirSync(authorities)
      .sort()
      .map((file) => readFileSync(join(authorities, file), 'utf8'))
      .join(''),
  )
}
