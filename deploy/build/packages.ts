import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'

export interface LockedPackage {
  name: string
  version: string
  integrity: string
  license?: string
  dev?: boolean
  dependencies?: Record<string, string>
}

/** Every package of the lockfile that lies in node_modules, by its path there. */
export function readLock(): Record<string, LockedPackage> {
  const { packages } = JSON.parse(readFileSync('package-lock.json', 'utf8')) as { packages: Record<string, LockedPackage> }
  return Object.fromEntries(
    Object.entries(packages)
      .filter(([path]) => path !== '')
      .map(([path, entry]) => [path, { ...entry, name: path.slice(path.lastIndexOf('node_modules/') + 13) }]),
  )
}

const cache = 'node_modules/.cache/mcr-build'

/**
 * The unpacked files of a package, for whatever platform it is, exactly as the lockfile has it: npm fetches the archive (its own cache
 * has what `npm ci` brought), and its hash must be the lockfile's. Shape: a directory. Errors: another hash; npm's own.
 */
export function fetchPackage(name: string): string {
  const locked = readLock()[`node_modules/${name}`]
  if (!locked) throw new Error(`${name} is not in package-lock.json`)
  const [algorithm, expected] = locked.integrity.split('-', 2) as [string, string]
  const directory = join(
    cache,
    `${name.replace('/', '+')}-${locked.version}-${Buffer.from(expected, 'base64').toString('hex').slice(0, 32)}`,
  )
  if (existsSync(directory)) return join(directory, 'package')
  mkdirSync(cache, { recursive: true })
  const work = mkdtempSync(join(cache, 'fetch-'))
  try {
    execFileSync('npm', ['pack', '--silent', '--pack-destination', work, `${name}@${locked.version}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const archive = join(work, `${name.replace('@', '').replace('/', '-')}-${locked.version}.tgz`)
    const actual = createHash(algorithm).update(readFileSync(archive)).digest('base64')
    if (actual !== expected)
      throw new Error(`${name}@${locked.version} has ${algorithm}-${actual}, and package-lock.json ${locked.integrity}: not used`)
    execFileSync('tar', ['-xzf', archive, '-C', work])
    rmSync(archive)
    renameSync(work, directory)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return join(directory, 'package')
}
