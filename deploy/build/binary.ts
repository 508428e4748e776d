// Builds the single executables into dist/: `npm run build:binary`, or `-- linux-arm64` for some. Node's own single-executable support
// puts the bundle and the database driver's addon into the Node of the lockfile. From one commit they come out the same to the byte.
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fetchPackage } from './packages.ts'
import { isPlatform, own, type Platform, platforms } from './platforms.ts'

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !isPlatform(name))
if (unknown.length > 0) {
  console.error(`no such platform: ${unknown.join(', ')}; there are ${Object.keys(platforms).join(', ')}`)
  process.exit(2)
}
const work = 'dist/work'
mkdirSync(work, { recursive: true })
execFileSync(process.execPath, ['esbuild.config.mjs', '--executable'], { stdio: 'inherit' })
const list = (wanted.length > 0 ? wanted : Object.keys(platforms)) as Platform[]
for (const platform of list) {
  const output = `dist/mcr-${platform}`
  buildExecutable(platform, output)
  if (platform === own) copyFileSync(output, 'dist/mcr')
  const note = platform.startsWith('darwin') ? '; unsigned: on the Mac, codesign --sign - it before it starts' : ''
  console.log(`${output}  ${(statSync(output).size / 1e6).toFixed(1)} MB${note}`)
}
rmSync(work, { recursive: true })

function buildExecutable(platform: Platform, output: string): void {
  const node = join(work, `node-${platform}`)
  copyFileSync(join(fetchPackage(platforms[platform].node), 'bin/node'), node)
  chmodSync(node, 0o755)
  // Before the injection: what is stripped afterwards does not start. A Mach-O file is left as it is, for its signature is gone as it is.
  if (platform.startsWith('linux')) execFileSync('llvm-strip', ['--strip-all', node], { stdio: 'inherit' })
  const config = join(work, `${platform}.json`)
  writeFileSync(
    config,
    JSON.stringify({
      main: 'dist/executable.mjs',
      mainFormat: 'module',
      executable: node,
      output,
      disableExperimentalSEAWarning: true,
      useCodeCache: false,
      // NODE_OPTIONS of the surroundings does not steer the registry.
      execArgvExtension: 'none',
      assets: { 'native/libsql.node': join(fetchPackage(platforms[platform].addon), 'index.node') },
    }),
  )
  execFileSync(process.execPath, ['--build-sea', config], { stdio: ['ignore', 'ignore', 'inherit'] })
  chmodSync(output, 0o755)
}
