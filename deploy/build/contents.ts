import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fetchPackage, readLock } from './packages.ts'
import { type Platform, platforms } from './platforms.ts'

interface Component {
  name: string
  version: string
  'bom-ref': string
  [field: string]: unknown
}
interface Bom {
  serialNumber?: string
  metadata: { timestamp?: string; component: Component; [field: string]: unknown }
  components: Component[]
  dependencies: { ref: string; dependsOn: string[] }[]
  [field: string]: unknown
}

/** The packages whose files a bundle took in, of esbuild's metafile, by their paths in node_modules. */
export function bundledPackages(inputs: readonly string[]): string[] {
  const paths = inputs.flatMap((file) => /^(?:node_modules\/(?:@[^/]+\/)?[^/]+\/)+/.exec(file)?.[0].slice(0, -1) ?? [])
  return [...new Set(paths)].sort()
}

/** What an executable of that platform is made of: the bundle's packages, the driver's addon and Node. */
export const contentsOf = (platform: Platform, bundled: readonly string[]) => [
  ...bundled,
  `node_modules/${platforms[platform].addon}`,
  `node_modules/${platforms[platform].node}`,
]

/**
 * The CycloneDX document of what is in an executable: npm's own of the lockfile, less what did not go in, and the libraries that this Node
 * names as its parts. Time and serial number are left out, so that it is the same for the same lockfile.
 */
export function makeBom(packages: readonly string[], version: string): string {
  // npm's --omit=dev also leaves out what the program shares with a development tool, so all is asked for and picked from here.
  const text = execFileSync('npm', ['sbom', '--sbom-format=cyclonedx', '--package-lock-only'], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  const { serialNumber: _, ...bom } = JSON.parse(text) as Bom
  const lock = readLock()
  const inside = new Set(packages.map((path) => `${lock[path]?.name}@${lock[path]?.version}`))
  const components = bom.components.filter(({ name, version }) => inside.has(`${name}@${version}`))
  if (components.length !== inside.size)
    throw new Error(`the bill of materials has ${components.length} of ${inside.size} packages`)
  const node = components.find(({ name }) => name.startsWith('node-')) as Component
  node.components = Object.entries(process.versions)
    .filter(([name, version]) => version !== '' && !['node', 'modules', 'napi', 'unicode'].includes(name))
    .map(([name, version]) => ({ type: 'library', name, version, 'bom-ref': `node/${name}@${version}` }))
  const refs = new Set(components.map((component) => component['bom-ref']))
  const { timestamp: __, ...metadata } = bom.metadata
  const self = `mcr@${version}`
  return `${JSON.stringify(
    {
      ...bom,
      metadata: { ...metadata, component: { ...metadata.component, type: 'application', name: 'mcr' } },
      components,
      dependencies: bom.dependencies
        .filter(({ ref }) => ref === self || refs.has(ref))
        .map(({ ref, dependsOn }) => ({ ref, dependsOn: dependsOn.filter((other) => refs.has(other)) })),
    },
    null,
    1,
  )}\n`
}

/** The licence texts of packages, one after another; where a package brings none, what it says it is under. */
export function licencesOf(packages: readonly string[]): string {
  const lock = readLock()
  return packages
    .map((path) => {
      const { name, version, license } = lock[path] as { name: string; version: string; license?: string }
      const directory = existsSync(path) ? path : fetchPackage(name)
      const files = readdirSync(directory)
        .filter((file) => /^(licen[cs]e|notice|copying)/i.test(file))
        .sort()
      const texts = files.map((file) => readFileSync(join(directory, file), 'utf8').trim())
      const said =
        texts.length > 0
          ? texts.join('\n\n')
          : `The package brings no text of its licence, which it names as ${license ?? 'unknown'}.`
      return `${'='.repeat(80)}\n${name} ${version} (${license ?? 'see below'})\n\n${said}\n`
    })
    .join('\n')
}

/** SHA-256 of a file, in hex. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
