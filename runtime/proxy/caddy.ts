import { accelHeaders } from '../accel.ts'
import { quoted, type Site } from './nginx.ts'
import type { Group, Plan, Rule } from './plan.ts'

/** Caddy's own spelling of an address: `unix//path`, or `host:port`. */
const address = (text: string) => (text.startsWith('unix:') ? `unix/${text.slice(5)}` : text)

/** Caddy's configuration for a plan: a Caddyfile, or a part to import in one. */
export function caddyConfig({ rules, rest, unserved }: Plan, site: Site): string {
  const lines = [
    '# Written by `mcr routes --caddy`, from the declarations of the routes: do not edit, write it again.',
    ...unserved.map((route) => `# No upstream serves ${route}.`),
    '(mcr_proxy) {',
    '\t# Bodies go through as they come; what the client sent of X-Forwarded-* is not believed.',
    '\tflush_interval -1',
    '\tlb_policy round_robin',
    '\tlb_try_duration 2s',
    '\ttransport http {',
    '\t\tcompression off',
    '\t\tkeepalive 60s',
    '\t\tkeepalive_idle_conns_per_host 64',
    '\t\tdial_timeout 5s',
    '\t}',
    ...(site.accel === undefined ? [] : accelBlock(site.accel)),
    '}',
    '',
    `${site.url} {`,
    ...(site.bind === undefined ? [] : [`\tbind ${site.bind}`]),
    ...(site.url.startsWith('https:') ? [`\ttls ${quoted(site.cert)} ${quoted(site.key)}`] : []),
    ...(site.grpc === undefined ? [] : grpcBlock(site.grpc)),
    '\troute {',
    '\t\t# Which process serves a request: its method and the end of its raw path decide, since names may hold every word of a route.',
    ...handlesOf(rules),
    ...handle(rest),
    '\t}',
    '\thandle_errors {',
    '\t\t@down expression {http.error.status_code} >= 500',
    '\t\theader @down {',
    '\t\t\tContent-Type application/json',
    '\t\t\tDocker-Distribution-Api-Version registry/2.0',
    '\t\t\tRetry-After 2',
    '\t\t}',
    `\t\trespond @down \`${JSON.stringify({ errors: [{ code: 'UNAVAILABLE', message: 'the registry cannot be reached; try again' }] })}\` 503`,
    '\t}',
    '}',
    '',
  ]
  return lines.join('\n')
}

/** One block for each group and set of methods; whole trees come last, as in the plan. */
function handlesOf(rules: readonly Rule[]): string[] {
  const blocks = new Map<string, { group: Group; methods: readonly string[]; paths: string[] }>()
  for (const { group, methods, path } of rules) {
    const key = `${group.name} ${methods.join()}`
    const known = blocks.get(key) ?? { group, methods, paths: [] }
    known.paths.push(path)
    blocks.set(key, known)
  }
  return [...blocks.values()].flatMap(({ group, methods, paths }, index) => {
    const matcher = `@to_${index}`
    return [
      `\t\t${matcher} {`,
      ...(methods.length === 0 ? [] : [`\t\t\tmethod ${methods.join(' ')}`]),
      `\t\t\tvars_regexp {http.request.uri} "^(${paths.join('|')})(\\?|$)"`,
      '\t\t}',
      ...handle(group, matcher),
    ]
  })
}

function handle({ servers }: Group, matcher?: string): string[] {
  return [
    `\t\thandle ${matcher === undefined ? '' : `${matcher} `}{`,
    `\t\t\treverse_proxy ${servers.map(address).join(' ')} {`,
    '\t\t\t\timport mcr_proxy',
    '\t\t\t}',
    '\t\t}',
  ]
}

function grpcBlock(grpc: string): string[] {
  return [
    '\t# gRPC, Connect and gRPC-Web.',
    '\thandle /mcr.v1.* {',
    `\t\treverse_proxy ${address(grpc)} {`,
    '\t\t\tflush_interval -1',
    '\t\t\ttransport http {',
    '\t\t\t\tversions h2c 2',
    '\t\t\t}',
    '\t\t}',
    '\t}',
  ]
}

function accelBlock({ directory, prefix }: { directory: string; prefix: string }): string[] {
  return [
    '\t# Blobs that the registry has allowed (server.accel = caddy): their headers are those of its answer.',
    '\t@accel header X-Accel-Redirect *',
    '\thandle_response @accel {',
    `\t\troot * ${quoted(directory)}`,
    '\t\trewrite * {rp.header.X-Accel-Redirect}',
    `\t\turi strip_prefix ${prefix.replace(/\/$/, '')}`,
    '\t\tmethod {http.request.method}',
    '\t\theader {',
    '\t\t\tdefer',
    '\t\t\t-Last-Modified',
    ...['Content-Type', 'Cache-Control', 'Content-Disposition', ...accelHeaders]
      // With an empty value Caddy would send an empty header; this one is there only behind TLS.
      .filter((name) => name !== 'Strict-Transport-Security')
      .map((name) => `\t\t\t${name} {rp.header.${name.replace('ETag', 'Etag')}}`),
    '\t\t}',
    '\t\tfile_server',
    '\t}',
  ]
}
