// Bundles each handler alone, and the program with a generated entry that names them: the only place that sees both sides.
import { existsSync, globSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'

if (Number(process.versions.node.split('.')[0]) < 22) {
  console.error(`Node ${process.versions.node} cannot build this; run it through npm, which brings its own: npm run build`)
  process.exit(1)
}

const { values } = parseArgs({ options: { metafile: { type: 'boolean', default: false } } })
const version = createRequire(import.meta.url)('./package.json').version
const handlers = globSync('handlers/**/*.ts').sort()
const name = (file) => file.replace(/^handlers\//, '').replace(/\.ts$/, '')

const shared = {
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node22',
  logLevel: 'warning',
  sourcemap: true,
  metafile: values.metafile,
}

/** The table of every route, also for a process that mounts a few. */
async function routeTable() {
  const routes = []
  for (const file of handlers) {
    const { default: handler } = await import(`./${file}`)
    for (const { methods, path, spec, action, errors } of handler.endpoints)
      routes.push({ handler: name(file), methods, path, spec, action, errors })
  }
  return routes
}

const read = (folder, ending) =>
  Object.fromEntries(
    (existsSync(folder) ? readdirSync(folder) : [])
      .filter((file) => file.endsWith(ending))
      .sort()
      .map((file) => [basename(file, ending), readFileSync(`${folder}/${file}`, 'utf8')]),
  )

async function entry() {
  const assets = {
    version,
    migrations: read('migrations', '.sql'),
    mounts: read('deploy/mounts', '.toml'),
    routes: await routeTable(),
  }
  return `
    import { main } from './runtime/main.ts'
    const handlers = {
      ${handlers.map((file) => `${JSON.stringify(name(file))}: () => import('./handlers/${name(file)}.mjs'),`).join('\n')}
    }
    await main(handlers, ${JSON.stringify(assets)})
  `
}

rmSync('dist', { recursive: true, force: true })
const results = await Promise.all([
  build({ ...shared, entryPoints: handlers, outbase: 'handlers', outdir: 'dist/handlers', outExtension: { '.js': '.mjs' } }),
  build({
    ...shared,
    stdin: { contents: await entry(), resolveDir: '.', sourcefile: 'entry.ts', loader: 'ts' },
    outfile: 'dist/mcr.mjs',
    // The database driver loads a native addon beside itself, so it stays outside the bundle.
    external: ['./handlers/*', 'libsql', '@libsql/client'],
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module';const require = __createRequire(import.meta.url);",
    },
  }),
])
if (values.metafile) console.log(JSON.stringify(results.map((result) => result.metafile)))
