/** How a value is read. */
export type Kind =
  | 'text'
  | 'secret'
  | 'path'
  | 'listen'
  | 'url'
  | 'duration'
  | 'size'
  | 'count'
  | 'workers'
  | 'switch'
  | 'list'
  | 'networks'
  | readonly string[]

export interface Key {
  kind: Kind
  /** As it would be written in the file; absent: unset. */
  byDefault?: string
  help: string
  /** Known because the original's files have it. */
  original?: true
}

/** Every key there is: section, name, how it is read, what it is without being set, and what it is for. */
export const keys = {
  server: {
    listen_addr: {
      kind: 'listen',
      byDefault: '127.0.0.1:5000',
      help: 'Where to listen: host:port, or unix: and a path. $PORT overrides the port.',
    },
    tls_cert: {
      kind: 'path',
      help: 'Certificate chain in PEM. With it the port speaks HTTPS, HTTP/1.1 and HTTP/2. Reloaded when the file changes.',
    },
    tls_key: { kind: 'path', help: 'Private key in PEM, readable by the owner (and group) only.' },
    public_url: {
      kind: 'url',
      help: 'The address clients use, such as https://registry.example.com. Needed when it is not loopback and not in the certificate.',
    },
    trusted_proxies: {
      kind: 'networks',
      byDefault: '',
      help: 'Addresses or networks of reverse proxies whose X-Forwarded-* headers count. With it plain HTTP may listen off loopback.',
    },
    workers: {
      kind: 'workers',
      help: 'Processes that serve, under a parent that keeps them alive and replaces them on SIGHUP: a number, or auto for one a processor. Unset: this process serves, without a parent.',
    },
    accel: {
      kind: ['off', 'nginx', 'caddy'],
      byDefault: 'off',
      help: 'Whether a trusted proxy sends large blobs itself, by X-Accel-Redirect; its configuration is that of mcr routes --accel.',
    },
    accel_prefix: {
      kind: 'text',
      byDefault: '/_mcr_blobs/',
      help: 'The internal path under which the proxy has storage.layers_path.',
    },
    shutdown_timeout: { kind: 'duration', byDefault: '60s', help: 'How long running requests may take to end after SIGTERM.' },
    max_connections: { kind: 'count', byDefault: '4096', help: 'Connections at a time, in each process.' },
    max_connections_per_address: {
      kind: 'count',
      byDefault: '256',
      help: 'Connections at a time from one address, in each process; loopback and proxies are exempt.',
    },
    min_body_rate: { kind: 'size', byDefault: '1KiB', help: 'Bytes a second that a request body must bring, over 60 seconds.' },
    grpc_addr: {
      kind: 'listen',
      help: 'A port for gRPC. Needed on plain HTTP only: with TLS the main port has it too. $PORT_GRPC overrides the port.',
      original: true,
    },
    admin_addr: {
      kind: 'listen',
      help: 'A listener of its own for /v1, RPC, /auth and /metrics, which the main one then does not have.',
    },
    read_timeout: {
      kind: 'duration',
      byDefault: '0s',
      help: 'Known for old files; bodies are watched by min_body_rate instead.',
      original: true,
    },
    write_timeout: { kind: 'duration', byDefault: '0s', help: 'Known for old files; has no effect.', original: true },
    idle_timeout: {
      kind: 'duration',
      byDefault: '95s',
      help: 'Known for old files; idle connections are kept for 95 seconds.',
      original: true,
    },
  },
  database: {
    path: { kind: 'path', help: 'The metadata database. Default: mcr.db in storage.root. On a local disk.' },
    url: {
      kind: 'url',
      help: 'A libSQL server instead of a file. It syncs nothing per commit: safe against kills, not against its own power cut.',
    },
    auth_token: { kind: 'secret', help: 'Its token.' },
    auth_token_file: { kind: 'path', help: 'A file with it.' },
  },
  storage: {
    root: { kind: 'path', byDefault: './data', help: 'Directory of everything the registry keeps.' },
    layers_path: { kind: 'path', help: 'Finished blobs. Default: blobs in storage.root.' },
    uploads_path: {
      kind: 'path',
      help: 'Uploads under way, on the same file system as layers_path. Default: uploads in storage.root.',
    },
    sparse: {
      kind: ['deny', 'allow'],
      byDefault: 'deny',
      help: 'Whether manifests may name blobs and children that are not here.',
    },
    undelete_window: {
      kind: 'duration',
      byDefault: '7d',
      help: 'How long what was deleted can be brought back before garbage collection takes it, in whole epochs (gc_grace); 0s: not at all.',
    },
    gc_grace: {
      kind: 'duration',
      byDefault: '24h',
      help: 'How long an epoch lasts. What a push was told is there stays for one to two of them. 0s: whatever no manifest needs may go at once.',
    },
    untagged_after: {
      kind: 'duration',
      byDefault: '0s',
      help: 'Manifests without a tag go this long after they were last wanted, unless an index or a subject with a tag needs them; 0s: they stay.',
    },
    untagged_repositories: {
      kind: 'list',
      byDefault: '**',
      help: 'Repositories that untagged_after is for, as globs such as ci/**.',
    },
    gc_rate: {
      kind: 'count',
      byDefault: '0',
      help: 'Most things that garbage collection looks at in a second; 0: as many as it can beside requests, which it makes way for.',
    },
    gc_interval: {
      kind: 'duration',
      byDefault: '24h',
      help: 'How often garbage is collected without being asked; 0s: never.',
    },
    scrub_cycle: {
      kind: 'duration',
      byDefault: '30d',
      help: 'Within which time every stored file is read again and compared with its digest; 0s: never.',
    },
    scrub_rate: {
      kind: 'size',
      byDefault: '64MiB',
      help: 'Most bytes a second that are read for that. What is stored, spread over the cycle, is usually far less.',
    },
    free_floor: {
      kind: 'size',
      help: 'Free bytes below which nothing new is taken: pushes are refused with 507. Default: 1GiB or 2 % of the file system, whichever is more.',
    },
    ballast: {
      kind: 'size',
      byDefault: '64MiB',
      help: 'Size of a file beside the database that is emptied when the disk is full, so that deletes can be committed; 0: none.',
    },
  },
  auth: {
    bootstrap_password: { kind: 'secret', help: 'Password of the first admin, instead of a random one.' },
    bootstrap_password_file: { kind: 'path', help: 'A file with it.' },
    key_file: {
      kind: 'path',
      help: 'Key that seals the token signing keys in the database; made at first start. Default: auth.key in storage.root.',
    },
    token_ttl: { kind: 'duration', byDefault: '5m', help: 'Life of a registry token, 60s at least.' },
  },
  policy: {
    user_content: {
      kind: 'switch',
      byDefault: 'true',
      help: 'The built-in rule that people with the role user may pull, push and delete everywhere.',
    },
  },
  audit: {
    pulls: {
      kind: ['sampled', 'all', 'none'],
      byDefault: 'sampled',
      help: 'Which pulls the journal keeps. sampled: the first of a digest by a principal from an address in each hour.',
    },
    retention: {
      kind: 'duration',
      byDefault: '400d',
      help: 'How long the journal keeps what an entry says. Its hash stays, so the chain can still be verified.',
    },
    pull_retention: {
      kind: 'duration',
      byDefault: '90d',
      help: 'The same for pulls, and how long the hourly aggregate is kept.',
    },
  },
  limits: {
    manifest_size: { kind: 'size', byDefault: '4MiB', help: 'Largest manifest.' },
    blob_size: { kind: 'size', byDefault: '100GiB', help: 'Largest blob.' },
    json_depth: { kind: 'count', byDefault: '64', help: 'Deepest nesting of a manifest.' },
    json_tokens: { kind: 'count', byDefault: '100000', help: 'Most values of a manifest.' },
    layers: { kind: 'count', byDefault: '512', help: 'Most layers of an image.' },
    children: { kind: 'count', byDefault: '1000', help: 'Most manifests of an index.' },
    uploads_per_principal: { kind: 'count', byDefault: '64', help: 'Uploads one account may have open.' },
    page_default: { kind: 'count', byDefault: '100', help: 'Entries of a catalog page when the client names no number.' },
    page_max: { kind: 'count', byDefault: '10000', help: 'Most entries of a page; tags come in pages of this size.' },
    tags_per_request: { kind: 'count', byDefault: '100', help: 'Most ?tag= of one manifest push.' },
    ranges: { kind: 'count', byDefault: '1024', help: 'Most ranges of one blob request.' },
    token_scopes: { kind: 'count', byDefault: '100', help: 'Most scopes of one token request.' },
    upload_idle: { kind: 'duration', byDefault: '24h', help: 'Idle time after which an upload is forgotten.' },
    delete_enabled: { kind: 'switch', byDefault: 'true', help: 'Whether anything may be deleted over the protocol.' },
  },
  mcias: {
    server_url: {
      kind: 'url',
      help: 'Remote identity service: names that are no accounts here are asked for there. https.',
      original: true,
    },
    ca_cert: { kind: 'path', help: 'Its certificate authority, in PEM.', original: true },
    service_name: { kind: 'text', help: 'Our name there, for its own policy.', original: true },
    tags: { kind: 'list', byDefault: '', help: 'Our tags there, such as env:restricted.', original: true },
    issuer: { kind: 'text', help: 'Issuer of its tokens. Default: server_url.' },
    account_type: {
      kind: ['human', 'system'],
      byDefault: 'human',
      help: 'What its accounts are where it does not say.',
    },
    offline_grace: {
      kind: 'duration',
      byDefault: '0s',
      help: 'How long tokens that it once called valid count by their signature while it cannot be reached.',
    },
  },
  sso: {
    issuer: {
      kind: 'text',
      help: 'OpenID Connect issuer that people log in through in a browser, exactly as it names itself; https.',
    },
    client_id: { kind: 'text', help: 'Our client id there.' },
    client_secret: { kind: 'secret', help: 'Our client secret there; none for a public client.' },
    client_secret_file: { kind: 'path', help: 'A file with it.' },
    redirect_uri: {
      kind: 'url',
      help: 'Where a browser login comes back to. Default: /auth/oidc/sso/callback at server.public_url.',
      original: true,
    },
    roles: { kind: 'list', byDefault: 'user', help: 'Roles of everybody who logs in through the issuer.' },
    roles_claim: { kind: 'text', help: 'Claim whose values are roles as well, such as groups.' },
  },
  web: {
    listen_addr: { kind: 'listen', help: 'Known for old files.', original: true },
    grpc_addr: { kind: 'text', help: 'Known for old files.', original: true },
    ca_cert: { kind: 'path', help: 'Known for old files.', original: true },
    tls_cert: { kind: 'path', help: 'Known for old files.', original: true },
    tls_key: { kind: 'path', help: 'Known for old files.', original: true },
  },
  log: {
    level: { kind: ['debug', 'info', 'warn', 'error'], byDefault: 'info', help: 'Least level that is logged.' },
    format: { kind: ['auto', 'json', 'pretty'], byDefault: 'auto', help: 'auto: pretty on a terminal, JSON elsewhere.' },
  },
} as const satisfies Record<string, Record<string, Key>>
