import { globSync, readdirSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import type { Handler } from '../../lib/http/mount.ts'
import type { Assets } from '../../runtime/app.ts'
import { installFetch } from '../../runtime/server.ts'

const root = new URL('../../', import.meta.url).pathname

const read = (folder: string, ending: string) =>
  Object.fromEntries(
    readdirSync(`${root}${folder}`)
      .filter((file) => file.endsWith(ending))
      .sort()
      .map((file) => [basename(file, ending), readFileSync(`${root}${folder}/${file}`, 'utf8')]),
  )

/** The native fetch, for tests to ask with: the server replaces Request and Response in this process. */
export const nativeFetch = globalThis.fetch

/** Every handler by name, loaded from source. */
export async function loadHandlers(): Promise<Record<string, Handler>> {
  installFetch()
  const handlers: Record<string, Handler> = {}
  for (const file of globSync('handlers/**/*.ts', { cwd: root }).sort())
    handlers[file.replace(/^handlers\//, '').replace(/\.ts$/, '')] = (
      (await import(`${root}${file}`)) as { default: Handler }
    ).default
  return handlers
}

export const builtInMounts = () => read('deploy/mounts', '.toml')

/** What the build would embed, read from the sources. */
export function makeAssets(handlers: Record<string, Handler>): Assets {
  const routes = Object.entries(handlers).flatMap(([handler, { endpoints }]) =>
    endpoints.map(({ run: _, ...declared }) => ({ handler, ...declared })),
  )
  return {
    version: '0.0.0-test',
    migrations: read('migrations', '.sql'),
    mounts: builtInMounts(),
    units: {},
    driver: 'test',
    routes,
  }
}
