import type { Assets } from '../app.ts'
import { readMountList } from '../main.ts'

/** One process behind the proxy: which mount list it runs, and where it listens (`host:port`, or `unix:` and a path). */
export interface Upstream {
  mount: string
  address: string
}

/** The processes that serve the same requests. */
export interface Group {
  /** A name for the proxy's configuration, made of the lists'. */
  name: string
  servers: readonly string[]
}

/** Requests that go to a group: methods (none: all of them) and a regular expression over the raw path. */
export interface Rule {
  group: Group
  methods: readonly string[]
  path: string
}

export interface Plan {
  groups: readonly Group[]
  /** In this order: the first that fits decides. */
  rules: readonly Rule[]
  /** Where everything goes that no rule takes: whichever process gets it refuses it alike. */
  rest: Group
  /** Routes that no upstream serves, as `METHOD path`. */
  unserved: readonly string[]
}

/** Whole trees of paths: what most of one is served by gets one rule, and only the rest of it rules of its own. */
const trees = ['/v1/', '/mcr.v1.', '/auth/']

/**
 * Which process gets which request, from the declarations of the endpoints and the lists that mount them: by method and the *end* of the
 * path, since repository names may hold every word of a route.
 * Errors: a plain Error for an upstream whose list is unknown.
 */
export function planRoutes(assets: Pick<Assets, 'routes' | 'mounts'>, upstreams: readonly Upstream[]): Plan {
  const lists = new Map(upstreams.map(({ mount }) => [mount, new Set(readMountList(mount, assets).handlers)]))
  const groups = new Map<string, Group>()
  const groupOf = (handler: string) => {
    const mounts = [...lists].filter(([, handlers]) => handlers.has(handler)).map(([mount]) => mount)
    if (mounts.length === 0) return undefined
    const name = `mcr_${mounts.map((mount) => mount.replace(/\.toml$/, '').replace(/[^a-zA-Z0-9]+/g, '_')).join('_')}`
    const servers = upstreams.filter(({ mount }) => mounts.includes(mount)).map(({ address }) => address)
    const known = groups.get(name) ?? { name, servers }
    groups.set(name, known)
    return known
  }

  const unserved: string[] = []
  const served = assets.routes.flatMap(({ handler, methods, path }) => {
    const group = groupOf(handler)
    if (!group) unserved.push(...methods.map((method) => `${method} ${path}`))
    return group ? [{ group, methods, path }] : []
  })
  const rest = served.find(({ path }) => path === '/v2/')?.group ?? [...groups.values()][0]
  if (!rest) throw new Error('no upstream serves any route: name them as --upstream <list>=<address>')
  const single: Rule[] = served
    .filter(({ group, path }) => group !== (majorityOf(path, served) ?? rest))
    .map(({ group, methods, path }) => ({ group, methods, path: patternOf(path) }))
  const whole: Rule[] = trees.flatMap((tree) => {
    const group = majorityOf(tree, served)
    return group && group !== rest ? [{ group, methods: [], path: `${literal(tree)}.*` }] : []
  })
  const rules = [...single, ...whole]
  return {
    rules,
    rest,
    unserved,
    groups: [...groups.values()].filter((g) => g === rest || rules.some(({ group }) => group === g)),
  }
}

type Served = { group: Group; path: string }

/** The group that serves most routes of the tree that a path is in; undefined outside the trees. */
function majorityOf(path: string, served: readonly Served[]): Group | undefined {
  const tree = trees.find((prefix) => path.startsWith(prefix))
  if (tree === undefined) return undefined
  const counts = new Map<Group, number>()
  for (const route of served) if (route.path.startsWith(tree)) counts.set(route.group, (counts.get(route.group) ?? 0) + 1)
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0]
}

const literal = (text: string) => text.replace(/[.]/g, '\\.')

/** A route's path over the raw path of a request: a name is greedy, any other parameter is one segment, a last slash may be missing. */
function patternOf(path: string): string {
  const bare = literal(path.replace(/\/$/, ''))
    .replace(/:\w+\+/g, '[^?]+')
    .replace(/:\w+/g, '[^/?]+')
  return path.endsWith('/') ? `${bare}/?` : bare
}
