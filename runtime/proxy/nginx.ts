import { accelHeaders } from '../accel.ts'
import type { Group, Plan, Rule } from './plan.ts'

/** What a proxy's configuration is about besides the routes. */
export interface Site {
  /** `https://registry.example.com`, with a port where it is not the scheme's own; `http:` for tests on loopback. */
  url: string
  cert: string
  key: string
  /** Addresses to listen on instead of all of them. */
  bind?: string
  /** Where gRPC is: `server.grpc_addr` of the process that mounts admin/rpc. */
  grpc?: string
  /** The blob directory and the internal path of it, where the proxy sends blobs itself (`server.accel`). */
  accel?: { directory: string; prefix: string }
}

/** A path as both proxies read it. */
export const quoted = (path: string) => (/^[\w./:@+-]+$/.test(path) ? path : JSON.stringify(path))

/**
 * nginx's configuration for a plan: to be included in `http { }`. Every line that a registry needs and nginx does not have by default says
 * why it is there.
 */
export function nginxConfig({ groups, rules, rest, unserved }: Plan, site: Site): string {
  const { protocol, hostname, port } = new URL(site.url)
  const tls = protocol === 'https:'
  const bind = site.bind?.includes(':') && !site.bind.startsWith('[') ? `[${site.bind}]` : site.bind
  const at = `${bind === undefined ? '' : `${bind}:`}${port || (tls ? 443 : 80)}`
  const lines = [
    '# Written by `mcr routes --nginx`, from the declarations of the routes: do not edit, write it again. Include it in http { }.',
    ...unserved.map((route) => `# No upstream serves ${route}.`),
    '',
    ...groups.flatMap(upstreamOf),
    ...(site.grpc === undefined ? [] : ['upstream mcr_grpc {', `  server ${site.grpc} max_fails=0;`, '  keepalive 16;', '}', '']),
    '# Which process serves a request: its method and the end of its raw path decide, since names may hold every word of a route.',
    'map "$request_method $request_uri" $mcr_upstream {',
    `  default ${rest.name};`,
    ...rules.map((rule) => `  ${mapKey(rule)} ${rule.group.name};`),
    '}',
    '',
    'server {',
    tls ? `  listen ${at} ssl http2;` : `  listen ${at};`,
    `  server_name ${hostname};`,
    ...(tls
      ? [
          `  ssl_certificate ${quoted(site.cert)};`,
          `  ssl_certificate_key ${quoted(site.key)};`,
          '  ssl_protocols TLSv1.2 TLSv1.3;',
          '  ssl_session_cache shared:mcr:10m;',
        ]
      : []),
    '  server_tokens off;',
    '  # Layers have any size; the registry has limits of its own.',
    '  client_max_body_size 0;',
    '  # A body may pause: the registry watches how fast it comes.',
    '  client_body_timeout 1h;',
    '  send_timeout 1h;',
    '  # A request for 1,024 ranges has a header of 23 KB.',
    '  large_client_header_buffers 8 64k;',
    '  # Paths reach the registry as they were sent, and Location as it was answered.',
    '  merge_slashes off;',
    '  absolute_redirect off;',
    '  # Clients take Content-Length for the size.',
    '  gzip off;',
    '',
    '  location / {',
    '    proxy_pass http://$mcr_upstream;',
    '    proxy_http_version 1.1;',
    '    proxy_set_header Connection "";',
    '    # With its port: the realm of the challenge is made of it.',
    '    proxy_set_header Host $http_host;',
    '    proxy_set_header X-Forwarded-Host $http_host;',
    '    proxy_set_header X-Forwarded-Proto $scheme;',
    '    # Overwritten, not appended to: what the client sent of it is not true.',
    '    proxy_set_header X-Forwarded-For $remote_addr;',
    '    proxy_set_header Forwarded "";',
    '    # Bodies go through as they come, both ways, and are never kept in files here.',
    '    proxy_request_buffering off;',
    '    proxy_buffering off;',
    '    proxy_max_temp_file_size 0;',
    '    proxy_redirect off;',
    '    # Hashing a large upload takes a while before the answer comes.',
    '    proxy_connect_timeout 5s;',
    '    proxy_read_timeout 1h;',
    '    proxy_send_timeout 1h;',
    '    # Another process is asked where one could not be reached.',
    '    proxy_next_upstream error;',
    '  }',
    ...(site.grpc === undefined ? [] : grpcLocation()),
    ...(site.accel === undefined ? [] : accelLocation(site.accel)),
    '',
    '  # What nginx itself refuses, in the form that registry clients read.',
    '  error_page 400 = /_mcr_refusals/400;',
    '  error_page 414 431 494 = /_mcr_refusals/431;',
    '  error_page 502 504 = /_mcr_refusals/503;',
    ...refusal(400, 'NAME_INVALID', 'not a request that a registry understands'),
    ...refusal(431, 'UNSUPPORTED', 'headers too large'),
    ...refusal(503, 'UNAVAILABLE', 'the registry cannot be reached; try again', ['add_header Retry-After 2 always;']),
    '}',
    '',
  ]
  return lines.join('\n')
}

function upstreamOf({ name, servers }: Group): string[] {
  return [`upstream ${name} {`, ...servers.map((address) => `  server ${address} max_fails=0;`), '  keepalive 64;', '}', '']
}

function mapKey({ methods, path }: Rule): string {
  const verbs = methods.length === 0 ? '[A-Z]+' : methods.length === 1 ? methods[0] : `(${methods.join('|')})`
  return `"~^${verbs} ${path}(\\?|$)"`
}

function grpcLocation(): string[] {
  return [
    '',
    '  # gRPC, Connect and gRPC-Web.',
    '  location /mcr.v1. {',
    '    grpc_pass grpc://mcr_grpc;',
    '    grpc_set_header Host $http_host;',
    '    grpc_set_header X-Forwarded-Host $http_host;',
    '    grpc_set_header X-Forwarded-Proto $scheme;',
    '    grpc_set_header X-Forwarded-For $remote_addr;',
    '    grpc_read_timeout 1h;',
    '    grpc_send_timeout 1h;',
    '  }',
  ]
}

function accelLocation({ directory, prefix }: { directory: string; prefix: string }): string[] {
  return [
    '',
    '  # Blobs that the registry has allowed (server.accel = nginx). Nobody comes here from outside.',
    `  location ${prefix} {`,
    '    internal;',
    `    alias ${quoted(directory.replace(/\/*$/, '/'))};`,
    '    types { }',
    '    default_type application/octet-stream;',
    '    sendfile on;',
    '    tcp_nopush on;',
    '    # Of the answer of the registry nginx keeps few headers: the rest is put back, and what nginx would make of the file is left out.',
    '    etag off;',
    '    if_modified_since off;',
    '    add_header Last-Modified "";',
    ...accelHeaders.map((name) => `    add_header ${name} $upstream_http_${name.toLowerCase().replaceAll('-', '_')} always;`),
    '    error_page 403 404 416 500 = /_mcr_refusals/404;',
    '  }',
    // The file went between the look of the registry and ours.
    ...refusal(404, 'BLOB_UNKNOWN', 'blob unknown to registry'),
  ]
}

/** A path, not a named location: nginx cannot go to one from a request it could not read. */
function refusal(status: number, code: string, message: string, more: readonly string[] = []): string[] {
  const body = JSON.stringify({ errors: [{ code, message }] })
  return [
    `  location = /_mcr_refusals/${status} {`,
    '    internal;',
    '    default_type application/json;',
    '    add_header Docker-Distribution-Api-Version registry/2.0 always;',
    '    add_header X-Content-Type-Options nosniff always;',
    ...more.map((line) => `    ${line}`),
    `    return ${status} '${body}';`,
    '  }',
  ]
}
