import assert from 'node:assert/strict'
import { test } from 'node:test'
import { caddyConfig } from '../../runtime/proxy/caddy.ts'
import { nginxConfig } from '../../runtime/proxy/nginx.ts'

test('addresses of IPv6 and paths with spaces are written as nginx and Caddy read them', () => {
  const all = { name: 'mcr_all', servers: ['127.0.0.1:5000'] }
  const plan = { groups: [all], rules: [], rest: all, unserved: [] }
  const site = { url: 'https://registry.example.com', cert: '/my tls/c.pem', key: '/k.pem' }
  const accel = { directory: '/srv/my data/blobs', prefix: '/_mcr_blobs/' }
  for (const bind of ['::1', '[::1]']) assert.match(nginxConfig(plan, { ...site, bind }), /listen \[::1\]:443 ssl/)
  assert.match(nginxConfig(plan, { ...site, bind: '127.0.0.1' }), /listen 127\.0\.0\.1:443 ssl/)
  const [nginx, caddy] = [nginxConfig(plan, { ...site, accel }), caddyConfig(plan, { ...site, accel })]
  assert.match(nginx, /ssl_certificate "\/my tls\/c\.pem";[\s\S]*alias "\/srv\/my data\/blobs\/";/)
  assert.match(caddy, /root \* "\/srv\/my data\/blobs"[\s\S]*tls "\/my tls\/c\.pem" \/k\.pem/)
})
