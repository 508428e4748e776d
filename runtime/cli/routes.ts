import { existsSync, realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import { Command, Option } from 'commander'
import type { Assets } from '../app.ts'
import type { Config } from '../config.ts'
import { readMountList } from '../main.ts'
import { caddyConfig } from '../proxy/caddy.ts'
import { nginxConfig, type Site } from '../proxy/nginx.ts'
import { planRoutes, type Upstream } from '../proxy/plan.ts'

/** One line a route: methods, path, action, errors, the rule it follows, its handler. */
export function formatRoutes(routes: Assets['routes']): string {
  return routes
    .map(({ methods, path, action, errors, spec, handler }) =>
      [
        methods.join(',').padEnd(10),
        path.padEnd(42),
        action.padEnd(32),
        spec.join(',').padEnd(24),
        handler.padEnd(20),
        errors.join(' '),
      ]
        .join(' ')
        .trimEnd(),
    )
    .sort()
    .join('\n')
    .concat('\n')
}

interface RoutesOptions {
  nginx?: true
  caddy?: true
  upstream: string[]
  grpcUpstream?: string
  site: string
  tlsCert: string
  tlsKey: string
  bind?: string
  accel?: true
}

/** `mcr routes`: which request goes where, and the proxy configuration that sends it there. */
export function routesCommand(program: Command, assets: Assets, load: () => Config): Command {
  return new Command('routes')
    .description('every route with its handler and the mount lists that have it; or the proxy configuration for a split registry')
    .addOption(new Option('--nginx', 'print a configuration for nginx, to include in http { }').conflicts('caddy'))
    .option('--caddy', 'print a Caddyfile')
    .option(
      '--upstream <list=address>',
      'a process behind the proxy: its --mount and where it listens, such as pull=unix:/run/mcr/pull.sock; once for each',
      (text: string, all: string[]) => [...all, text],
      [],
    )
    .option('--grpc-upstream <address>', 'server.grpc_addr of the process that mounts admin/rpc, such as unix:/run/mcr/grpc.sock')
    .option('--site <url>', 'the address clients use', 'https://registry.example.com')
    .option('--tls-cert <file>', 'certificate chain', '/etc/mcr/tls/cert.pem')
    .option('--tls-key <file>', 'private key', '/etc/mcr/tls/key.pem')
    .option('--bind <address>', 'listen on this address only')
    .option('--accel', 'let the proxy send blobs itself: set server.accel to it as well')
    .addHelpText(
      'after',
      `
Examples:
  mcr routes                                     a table; --json for the same as data
  mcr routes --nginx --upstream all=127.0.0.1:5000 --site https://registry.example.com
  mcr routes --nginx --upstream pull=unix:/run/mcr/pull.sock --upstream push=unix:/run/mcr/push.sock \\
             --upstream auth,admin=unix:/run/mcr/auth.sock --grpc-upstream unix:/run/mcr/grpc.sock > /etc/nginx/conf.d/mcr.conf
See docs/proxy.md.`,
    )
    .action((options: RoutesOptions) => {
      if (!options.nginx && !options.caddy) {
        process.stdout.write(program.opts<{ json?: true }>().json ? jsonOf(assets) : tableOf(assets))
        return
      }
      const plan = planRoutes(assets, options.upstream.map(parseUpstream))
      for (const route of plan.unserved) console.error(`mcr: no upstream serves ${route}: it will be refused with 421`)
      process.stdout.write(options.nginx ? nginxConfig(plan, siteOf(options, load)) : caddyConfig(plan, siteOf(options, load)))
    })
}

function siteOf({ site, tlsCert, tlsKey, bind, grpcUpstream: grpc, accel }: RoutesOptions, load: () => Config): Site {
  if (!/^https?:\/\/[^/?#]+$/.test(site)) throw usage(`--site ${site}: an address such as https://registry.example.com`)
  if (grpc !== undefined) checkAddress(grpc)
  const { storage, server } = accel ? load() : { storage: undefined, server: undefined }
  return {
    url: site,
    cert: tlsCert,
    key: tlsKey,
    bind,
    grpc,
    accel: storage && server && { directory: absolute(storage.layersPath), prefix: server.accelPrefix },
  }
}

const absolute = (path: string) => (existsSync(path) ? realpathSync(path) : resolve(path))

function parseUpstream(text: string): Upstream {
  const at = text.lastIndexOf('=')
  if (at < 1) throw usage(`--upstream ${text}: a mount list and an address, such as pull=unix:/run/mcr/pull.sock`)
  const upstream = { mount: text.slice(0, at), address: text.slice(at + 1) }
  checkAddress(upstream.address)
  return upstream
}

/** It is written into a configuration as it stands. */
function checkAddress(address: string): void {
  if (!/^unix:\/[A-Za-z0-9._/-]+$|^[A-Za-z0-9._:[\]-]+:[0-9]{1,5}$/.test(address))
    throw usage(`${address} is no address: host:port, or unix: and an absolute path`)
}

const usage = (message: string) => Object.assign(new Error(message), { status: 400 })

/** Which lists that the program knows have a handler. */
function listsWith(assets: Assets): Map<string, string[]> {
  const lists = Object.keys(assets.mounts).map((name) => [name, readMountList(name, assets).handlers] as const)
  return new Map(
    assets.routes.map(({ handler }) => [
      handler,
      lists.filter(([, handlers]) => handlers.includes(handler)).map(([name]) => name),
    ]),
  )
}

function tableOf(assets: Assets): string {
  const lists = listsWith(assets)
  const rows = assets.routes
    .map(({ methods, path, action, handler }) => [methods.join(','), path, handler, (lists.get(handler) ?? []).join(','), action])
    .sort((a, b) => (`${a[1]} ${a[0]}` < `${b[1]} ${b[0]}` ? -1 : 1))
  const head = ['METHODS', 'PATH', 'HANDLER', 'MOUNT LISTS', 'ACTION']
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => (row[column] as string).length)))
  return [head, ...rows]
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] as number))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('')
}

function jsonOf(assets: Assets): string {
  const lists = listsWith(assets)
  const routes = assets.routes.map(({ handler, methods, path, spec, action, errors }) => ({
    handler,
    lists: lists.get(handler) ?? [],
    methods,
    path,
    spec,
    action,
    errors,
  }))
  return `${JSON.stringify(routes, null, 2)}\n`
}
