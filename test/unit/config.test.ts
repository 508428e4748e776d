import assert from 'node:assert/strict'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { formatProblems, loadConfig } from '../../runtime/config.ts'

const folder = mkdtempSync(join(tmpdir(), 'mcr-config-'))
const fileOf = (text: string) => {
  const file = join(folder, `${Math.random()}.toml`)
  writeFileSync(file, text)
  return file
}
const good = (options: Parameters<typeof loadConfig>[0]) => {
  const result = loadConfig(options)
  if ('problems' in result) assert.fail(formatProblems(result.problems))
  return result.config
}
const bad = (options: Parameters<typeof loadConfig>[0]) => {
  const result = loadConfig(options)
  if ('config' in result) assert.fail('it was taken for good')
  return result.problems
}

test('everything has a default', () => {
  const config = good({ env: {} })
  assert.equal(config.server.listenAddr, '127.0.0.1:5000')
  assert.equal(config.storage.layersPath, 'data/blobs')
  assert.equal(config.database.path, 'data/mcr.db')
  assert.equal(config.limits.manifestBytes, 4 * 1024 * 1024)
  assert.ok(Object.isFrozen(config.limits))
})

test('file, then environment, then $PORT', () => {
  const file = fileOf('[server]\nlisten_addr = "127.0.0.1:1"\n[limits]\nblob_size = "2GiB"\nupload_idle = "1h"\n')
  assert.equal(good({ file, env: {} }).server.listenAddr, '127.0.0.1:1')
  assert.equal(good({ file, env: { MCR_SERVER_LISTEN_ADDR: '127.0.0.1:2' } }).server.listenAddr, '127.0.0.1:2')
  assert.equal(good({ file, env: { MCR_SERVER_LISTEN_ADDR: '127.0.0.1:2', PORT: '3' } }).server.listenAddr, '127.0.0.1:3')
  assert.equal(good({ file, env: { MCR_SERVER_LISTEN_ADDR: 'unix:/run/s', PORT: '3' } }).server.listenAddr, 'unix:/run/s')
  assert.equal(good({ file, env: {}, overrides: { 'server.listen_addr': ':4' } }).server.listenAddr, ':4')
  assert.equal(good({ file, env: {} }).limits.blobBytes, 2 * 2 ** 30)
  assert.equal(good({ file, env: {} }).limits.uploadIdleMs, 3_600_000)
})

test('every problem at once, with key, origin, value and what was expected', () => {
  const file = fileOf(
    '[server]\nlisten_adr = "x"\ntrusted_proxies = ["10.0.0.0/8", "fd00::/8", "nonsense"]\n[limits]\nranges = "many"\n[sever]\na = 1\n',
  )
  const problems = bad({
    file,
    env: { MCR_LOG_LEVEL: 'loud', MCR_LIMIT_RANGES: '1', MCR_AUTH_TOKEN_TTL: '10s', PORT: 'x', MCR_SERVER_TLS_CERT: '/nowhere' },
  })
  const text = formatProblems(problems)
  for (const wanted of [
    /server\.listen_adr .*did you mean listen_addr/,
    /server\.trusted_proxies .*nonsense is none/,
    /limits\.ranges .*"many".*whole number/,
    /sever .*did you mean server/,
    /log\.level \(\$MCR_LOG_LEVEL\) is "loud".*one of debug, info, warn, error/,
    /\$MCR_LIMIT_RANGES .*did you mean MCR_LIMITS_RANGES/,
    /auth\.token_ttl .*60s at least/,
    /\$PORT/,
    /server\.tls_key .*set together/,
    /server\.tls_cert .*"\/nowhere".*exists/,
  ])
    assert.match(text, wanted)
  assert.ok(!/correct horse/.test(formatProblems(bad({ file, env: { MCR_AUTH_BOOTSTRAP_PASSWORD: 'correct horse' } }))))
})

test('the keys of the original are known', () => {
  const file = fileOf(
    '[server]\nread_timeout = "30s"\nwrite_timeout = "30s"\nidle_timeout = "120s"\ngrpc_addr = ":9443"\n[mcias]\nserver_url = "https://mcias.example"\nservice_name = "mcr"\ntags = ["env:restricted"]\n[sso]\nredirect_uri = "https://x.example/cb"\n[web]\nlisten_addr = ":8080"\n',
  )
  good({ file, env: {} })
})

test('secrets from a file; a file that is no TOML', () => {
  const secret = fileOf('from a file\n')
  assert.equal(good({ env: { MCR_AUTH_BOOTSTRAP_PASSWORD_FILE: secret } }).auth.bootstrapPassword, 'from a file')
  assert.match(formatProblems(bad({ file: fileOf('[server\n'), env: {} })), /TOML/)
  assert.match(formatProblems(bad({ file: join(folder, 'none.toml'), env: {} })), /can be read/)
})

test('networks of proxies are read strictly: what is checked is what starts, and nothing means another address than it seems to', () => {
  const wrong = ['10.0.0.0/33', 'fd00::/129', '999.1.1.1', '10', '010.0.0.1', '::ffff:10.0.0.0/104', '10.0.0.0/']
  for (const network of wrong) {
    const loaded = loadConfig({ file: '/dev/null', env: { MCR_SERVER_TRUSTED_PROXIES: network } })
    assert.ok('problems' in loaded, network)
  }
  const env = { MCR_SERVER_TRUSTED_PROXIES: '10.0.0.0/8,192.0.2.7,fd00::/8,::1' }
  assert.ok('config' in loadConfig({ file: '/dev/null', env }))
})
