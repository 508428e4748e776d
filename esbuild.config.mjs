// Bundles each handler alone, and the program with a generated entry that names them: the only place that sees both sides.
// `--executable` makes the one file that deploy/build/binary.ts puts into Node: every handler and the driver inside.
import { copyFileSync, existsSync, globSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'
import { fillCompiled } from './deploy/build/compile.ts'
import { makeEmptyDatabase } from './deploy/build/empty-database.ts'

if (Number(process.versions.node.split('.')[0]) < 22) {
  console.error(`Node ${process.versions.node} cannot build this; run it through npm, which brings its own: npm run build`)
  process.exit(1)
}

const { values } = parseArgs({
  options: { metafile: { type: 'boolean', default: false }, executable: { type: 'boolean', default: false } },
})
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
    for (const { run: _, ...declared } of handler.endpoints) routes.push({ handler: name(file), ...declared })
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
  const migrations = read('migrations', '.sql')
  const assets = {
    version,
    migrations,
    emptyDatabase: await makeEmptyDatabase(migrations),
    mounts: read('deploy/mounts', '.toml'),
    units: read('deploy/systemd', ''),
    driver: JSON.parse(readFileSync('node_modules/libsql/package.json', 'utf8')).version,
    routes: await routeTable(),
  }
  return `
    import { main } from './runtime/main.ts'
    const handlers = {
      ${handlers.map((file) => `${JSON.stringify(name(file))}: () => import('./${file}'),`).join('\n')}
    }
    main(handlers, ${JSON.stringify(assets)})
  `
}

/** Parts of Node that these packages hold on to as they load and a start does not use: they come when they are first touched. */
const late = {
  name: 'late',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:)?(assert|child_process|https|zlib)$/ }, ({ path, importer }) =>
      /node_modules.(@whatwg-node|commander|sonic-boom)\b/.test(importer) ? { path, namespace: 'late' } : undefined,
    )
    onLoad({ filter: /./, namespace: 'late' }, ({ path }) => ({
      contents: `module.exports = new Proxy(() => {}, {
        get: (_, name) => (name === '__esModule' ? undefined : process.getBuiltinModule('${path}')[name]),
        apply: (_, self, words) => process.getBuiltinModule('${path}')(...words),
      })`,
    }))
  },
}

const program = async ({ alias, ...options }) =>
  await build({
    ...shared,
    // Of the adapter only the part that we use: the rest takes hold of Node's own fetch as it loads, a third of the time to start.
    // Exemplars of metrics, which we do not keep, would bring all of tracing; forms and a log on another thread we do not have.
    alias: {
      '@whatwg-node/server': './node_modules/@whatwg-node/server/esm/utils.js',
      '@opentelemetry/api': './deploy/build/unused.cjs',
      '@fastify/busboy': './deploy/build/unused.cjs',
      'thread-stream': './deploy/build/unused.cjs',
      ...alias,
    },
    plugins: [late],
    // One file that Node need not resolve an import in, and can keep compiled.
    format: 'cjs',
    minifyWhitespace: true,
    minifySyntax: true,
    stdin: { contents: await entry(), resolveDir: '.', sourcefile: 'entry.ts', loader: 'ts' },
    ...options,
  })

/** An import of a handler stays one in time: it is run when a request first asks for it. */
const buildExecutable = async () => [
  await program({
    sourcemap: false,
    outfile: 'dist/executable.cjs',
    // A function of what a module is given: deploy/build/start-executable.cjs calls it.
    banner: { js: '(function(require,module,exports){' },
    footer: { js: '})' },
    // The driver's own switch for a loader of its addon, and the loader: no other path is left in the bundle.
    define: { 'process.env.LIBSQL_JS_DEV': '"1"', __dirname: '""' },
    alias: { '@neon-rs/load': './runtime/native-load.ts' },
  }),
]

const buildAll = async () => {
  rmSync('dist/handlers', { recursive: true, force: true })
  const results = await Promise.all([
    build({ ...shared, entryPoints: handlers, outbase: 'handlers', outdir: 'dist/handlers', outExtension: { '.js': '.mjs' } }),
    // The database driver loads a native addon beside itself, so it stays outside the bundle.
    program({ outfile: 'dist/program.cjs', external: ['libsql', '@libsql/client'] }),
  ])
  copyFileSync('deploy/build/start.cjs', 'dist/mcr.cjs')
  await fillCompiled()
  return results
}

const results = await (values.executable ? buildExecutable() : buildAll())
if (values.metafile) console.log(JSON.stringify(results.map((result) => result.metafile)))
