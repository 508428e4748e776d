// Builds the single executables into dist/: `npm run build:binary`, or `-- linux-arm64` for some. Node's own single-executable support
// puts the bundle and the database driver's addon into the Node of the lockfile. From one commit they come out the same to the byte.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { compileExecutable } from './compile.ts'
import { bundledPackages, contentsOf, hashFile, licencesOf, makeBom } from './contents.ts'
import { fetchPackage, readLock } from './packages.ts'
import { isPlatform, own, type Platform, platforms } from './platforms.ts'

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !isPlatform(name))
if (unknown.length > 0) {
  console.error(`no such platform: ${unknown.join(', ')}; there are ${Object.keys(platforms).join(', ')}`)
  process.exit(2)
}
const list = (wanted.length > 0 ? wanted : Object.keys(platforms)) as Platform[]
const { version: node } = readLock()[`node_modules/${platforms[list[0] as Platform].node}`] as { version: string }
if (node !== process.versions.node) {
  console.error(
    `Node ${process.versions.node} cannot build on Node ${node}; run it through npm, which brings that: npm run build:binary`,
  )
  process.exit(1)
}
if (list.some((platform) => platform.startsWith('linux')) && spawnSync('llvm-strip', ['--version']).error) {
  console.error('llvm-strip is missing: apt-get install llvm')
  process.exit(1)
}
const work = 'dist/work'
mkdirSync(work, { recursive: true })
const metafile = execFileSync(process.execPath, ['esbuild.config.mjs', '--executable', '--metafile'], {
  encoding: 'utf8',
  maxBuffer: 64 * 1024 * 1024,
  stdio: ['ignore', 'pipe', 'inherit'],
})
const [{ inputs }] = JSON.parse(metafile) as [{ inputs: object }]
const bundled = bundledPackages(Object.keys(inputs))
const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }
for (const platform of list) {
  const output = `dist/mcr-${platform}`
  const built = await buildExecutable(platform)
  // A file that runs cannot be written over; a name can be given to another.
  if (platform === own) {
    copyFileSync(built, join(work, 'mcr'))
    renameSync(join(work, 'mcr'), 'dist/mcr')
  }
  renameSync(built, output)
  writeFileSync(`${output}.cdx.json`, makeBom(contentsOf(platform, bundled), version))
  const note = platform.startsWith('darwin') ? '; unsigned: on the Mac, codesign --sign - it before it starts' : ''
  console.log(`${output}  ${(statSync(output).size / 1e6).toFixed(1)} MB${note}`)
}
writeFileSync(
  'dist/THIRD-PARTY-LICENSES.txt',
  licencesOf([...new Set(list.flatMap((platform) => contentsOf(platform, bundled)))]),
)
rmSync(work, { recursive: true })

// Of this build alone: what lies there from another may be of another commit.
const sums: string[] = []
for (const file of [
  'THIRD-PARTY-LICENSES.txt',
  ...list.flatMap((platform) => [`mcr-${platform}`, `mcr-${platform}.cdx.json`]).sort(),
])
  sums.push(`${await hashFile(`dist/${file}`)}  ${file}`)
writeFileSync('dist/SHA256SUMS', `${sums.join('\n')}\n`)
console.log(`beside them: SHA256SUMS, what is inside (*.cdx.json), THIRD-PARTY-LICENSES.txt`)

/** Shape: the file. */
async function buildExecutable(platform: Platform): Promise<string> {
  const node = join(work, `node-${platform}`)
  const output = join(work, `mcr-${platform}`)
  copyFileSync(join(fetchPackage(platforms[platform].node), 'bin/node'), node)
  chmodSync(node, 0o755)
  // Before the injection: what is stripped afterwards does not start. A Mach-O file is left as it is, for its signature is gone as it is.
  if (platform.startsWith('linux')) execFileSync('llvm-strip', ['--strip-all', node], { stdio: 'inherit' })
  const program = 'dist/executable.cjs'
  const addon = join(fetchPackage(platforms[platform].addon), 'index.node')
  const assets: Record<string, string> = { program, [`native/${await hashFile(addon)}.node`]: addon }
  // Another platform's machine cannot be asked to compile here.
  if (platform === own) {
    assets.compiled = join(work, 'compiled')
    await compileExecutable(program, addon, assets.compiled)
  }
  const config = join(work, `${platform}.json`)
  writeFileSync(
    config,
    JSON.stringify({
      main: 'deploy/build/start-executable.cjs',
      mainFormat: 'commonjs',
      executable: node,
      output,
      disableExperimentalSEAWarning: true,
      // NODE_OPTIONS of the surroundings does not steer the registry.
      execArgvExtension: 'none',
      assets,
    }),
  )
  execFileSync(process.execPath, ['--build-sea', config], { stdio: ['ignore', 'ignore', 'inherit'] })
  chmodSync(output, 0o755)
  return output
}
