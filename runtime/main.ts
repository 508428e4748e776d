import { existsSync, readFileSync } from 'node:fs'
import { normalize } from 'node:path'
import { isatty } from 'node:tty'
import { parse as parseToml } from 'smol-toml'
import type { Endpoint } from '../lib/http/endpoint.ts'
import type { Handler } from '../lib/http/mount.ts'
import { type App, type Assets, createApp } from './app.ts'
import { runCli, type ServeOptions } from './cli/cli.ts'
import type { Config } from './config.ts'
import { createLogger, type Logger } from './logger.ts'
import { installFetch, type RunningServer, type ServerOptions, startServer } from './server.ts'
import { type InheritedSocket, inheritedSockets } from './sockets.ts'
import { joinParent, type Serving, type Worker } from './worker.ts'

export type HandlerLoaders = Readonly<Record<string, () => Promise<{ default: Handler }>>>

/** What one process runs. */
export interface MountList {
  handlers: readonly string[]
  jobs: readonly string[]
}

/** The program. `loaders` import handlers by name, so that a process loads just those it mounts. */
export async function main(loaders: HandlerLoaders, assets: Assets): Promise<void> {
  process.umask(0o077)
  installFetch()
  await runCli(process.argv.slice(2), {
    assets,
    serve: (config, options) => serve(loaders, assets, config, options),
  })
}

/** Serves until SIGTERM or SIGINT; a second one ends at once. */
async function serve(
  loaders: HandlerLoaders,
  assets: Assets,
  config: Config,
  { mount, notes, rollback }: ServeOptions,
): Promise<void> {
  const worker = joinParent()
  const inherited = inheritedSockets(process.env, { pid: process.pid, ...(worker ? { isWorker: true } : {}) })
  const list = readMountList(mount, assets)
  if (config.server.workers !== undefined && !worker) {
    const logger = await createLogger(config.log)
    const { superviseWorkers } = await import('./workers.ts')
    // What it does not mount another process may listen for.
    const servesRpc = list.handlers.includes('admin/rpc')
    const greeted = (serving: Serving) => greet(logger, serving, config, assets, notes)
    return await superviseWorkers(config, inherited, servesRpc, logger, greeted)
  }
  const handlers = lateHandlers(loaders, assets.routes, list.handlers)
  const fatal = (error: Error) => {
    console.error(`mcr: ${error.message}; ending, so that nothing is answered from a broken database`)
    process.exit(70)
  }
  const app = await createApp(config, assets, handlers, fatal, list.jobs, worker, rollback)
  const server = await startAppServer(app, config, inherited, worker ? 'worker' : 'alone')
  app.startJobs(list.jobs)
  const { url, port, grpcPort, adminPort } = server
  const serving: Serving = { version: assets.version, url, port, grpcPort, adminPort, admin: app.admin }
  if (worker) worker.ready(serving)
  else greet(app.logger, serving, config, assets, notes)
  await untilTold(app, config, worker)
  await server.drain(config.server.shutdownTimeoutMs)
  await worker?.farewell()
  await app.close()
  app.logger.log({ level: 'info', event: 'stopped' })
  process.exit(0)
}

/** One server over an app: its log line and its metrics are written when the last byte has left. */
export async function startAppServer(
  app: App,
  config: Config,
  inherited: readonly InheritedSocket[] = [],
  as: 'alone' | 'worker' = 'alone',
): Promise<RunningServer> {
  const { server } = config
  return await startServer({
    listen: server.listenAddr,
    inherited,
    opensNone: as === 'worker',
    grpcListen: app.servesRpc ? server.grpcAddr : undefined,
    adminListen: server.adminAddr,
    grpc: app.servesRpc ? lateGrpc(app) : undefined,
    tls: server.tlsCert !== undefined && server.tlsKey !== undefined ? { cert: server.tlsCert, key: server.tlsKey } : undefined,
    trustedProxies: server.trustedProxies,
    accel:
      server.accel === 'off'
        ? undefined
        : { proxy: server.accel, prefix: server.accelPrefix, directory: normalize(config.storage.layersPath) },
    publicUrl: server.publicUrl,
    limits: {
      connections: app.descriptors.connections,
      connectionsPerAddress: server.maxConnectionsPerAddress,
      minBodyRate: server.minBodyRate,
    },
    onLimit: app.alarm,
    newId: app.ctx.newId,
    fetch: (request, exchange) => app.fetch(request, app.ctx, exchange),
    onRequestEnd: (exchange, end) => {
      app.ended(exchange)
      app.metrics.observe(exchange.endpoint ?? 'none', end.ms / 1000)
      app.logger.request(exchange, end)
    },
    log: (event) => app.logger.log(event),
  })
}

/** gRPC, whose library is loaded by the first request that speaks it. */
function lateGrpc({ ctx }: App): NonNullable<ServerOptions['grpc']> {
  let loading: Promise<NonNullable<ServerOptions['grpc']>> | undefined
  return (req, res, exchange) => {
    loading ??= import('./grpc.ts').then(({ createGrpc }) => createGrpc(ctx))
    void loading.then((serve) => serve(req, res, exchange))
  }
}

/** The mount lists of these names, parted by commas, as one: names that the program knows, or files. Errors: a plain Error. */
export function readMountList(names: string, assets: Pick<Assets, 'mounts'>): MountList {
  const lists = names.split(',').map((name) => readOneList(name.trim(), assets))
  const union = (of: (list: MountList) => readonly string[]) => [...new Set(lists.flatMap(of))]
  return { handlers: union((list) => list.handlers), jobs: union((list) => list.jobs) }
}

function readOneList(name: string, { mounts }: Pick<Assets, 'mounts'>): MountList {
  if (!Object.hasOwn(mounts, name) && !existsSync(name))
    throw new Error(`no mount list is called ${name}: there are ${Object.keys(mounts).join(', ')}, or name a file`)
  const text = Object.hasOwn(mounts, name) ? (mounts[name] as string) : readFileSync(name, 'utf8')
  const { handlers, jobs } = parseToml(text) as Partial<Record<'handlers' | 'jobs', unknown>>
  const texts = (value: unknown) => Array.isArray(value) && value.every((entry) => typeof entry === 'string')
  if (!texts(handlers) || !texts(jobs)) throw new Error(`mount list ${name}: it must have the lists handlers and jobs`)
  return { handlers: handlers as string[], jobs: jobs as string[] }
}

/** The handlers of a mount list as the table of routes has them; the code of each is run when a request first asks for it. */
function lateHandlers(loaders: HandlerLoaders, routes: Assets['routes'], names: readonly string[]): Pick<Handler, 'endpoints'>[] {
  return names.map((name) => {
    const load = Object.hasOwn(loaders, name) ? loaders[name] : undefined
    if (!load) throw new Error(`no handler is called ${name}; see mcr routes`)
    let loaded: Handler | undefined
    const own = routes.filter((route) => route.handler === name)
    const endpoints = own.map((route, index) => ({
      ...route,
      run: async (...call: Parameters<Endpoint['run']>) => {
        loaded ??= (await load()).default
        return await (loaded.endpoints[index] as Endpoint).run(...call)
      },
    }))
    return { endpoints }
  })
}

function greet(logger: Logger, serving: Serving, config: Config, assets: Assets, notes: readonly string[]): void {
  const { url, port, grpcPort, adminPort, admin } = serving
  logger.log({
    level: 'info',
    event: 'listening',
    url,
    port,
    grpc_port: grpcPort,
    admin_port: adminPort,
    workers: config.server.workers,
    version: assets.version,
    root: config.storage.root,
  })
  if (admin?.file) logger.log({ level: 'info', event: 'admin_created', name: admin.name, password_file: admin.file })
  if (!isatty(1) && notes.length === 0) return
  const lines = [`\nMCR ${assets.version} serves on ${url}`, ...notes]
  if (admin?.password && isatty(1))
    lines.push(
      `First login: docker login ${url.replace(/^https?:\/\//, '')} -u ${admin.name} -p ${admin.password}`,
      `(kept in ${admin.file} until it is first used)`,
    )
  console.log(`${lines.join('\n')}\n`)
}

/**
 * Waits until this process shall end. A worker may be told by its parent, by a signal to its whole group, and by its parent's end, and
 * must not take that for a second time; anybody else ends at once when told twice.
 */
async function untilTold({ logger }: App, config: Config, worker: Worker | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    let told = false
    const tell = (signal: string) => {
      if (told && !worker) process.exit(1)
      if (told) return
      told = true
      logger.log({ level: 'info', event: 'draining', signal, seconds: config.server.shutdownTimeoutMs / 1000 })
      resolve()
    }
    process.on('SIGTERM', () => tell('SIGTERM'))
    process.on('SIGINT', () => tell('SIGINT'))
    worker?.onEnd(tell)
    // The parent answers it. Without one a terminal that hangs up ends the process, and a request to reload is told what it lacks.
    process.on('SIGHUP', () => {
      if (worker) return
      if (isatty(1)) tell('SIGHUP')
      else logger.log({ level: 'warn', event: 'not_replaced', hint: 'SIGHUP replaces workers: set server.workers, or restart' })
    })
  })
}
