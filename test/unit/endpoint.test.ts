// The declaration types what `handle` may use: this file is checked by the compiler as much as it is run.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { endpoint } from '../../lib/http/endpoint.ts'
import { handler } from '../../lib/http/mount.ts'
import type { Reference, RepositoryName } from '../../lib/oci/names.ts'

const good = endpoint({
  spec: 'end-3',
  method: 'GET',
  path: '/v2/:name+/manifests/:reference',
  action: 'registry:pull',
  errors: ['MANIFEST_UNKNOWN'],
  needs: ['metadata'],
  handle({ params, error }, ctx) {
    const name: RepositoryName = params.name
    const reference: Reference = params.reference
    // @ts-expect-error: the path has no such parameter
    params.digest
    // @ts-expect-error: the endpoint does not declare this code
    error('BLOB_UNKNOWN')
    // @ts-expect-error: the endpoint does not need this port
    ctx.blobs
    return new Response(`${name} ${reference.kind} ${typeof ctx.metadata} ${typeof error}`)
  },
})

test('a declaration says its methods, path, action, errors and needs', () => {
  assert.deepEqual(good.methods, ['GET', 'HEAD'])
  assert.deepEqual(good.needs, ['metadata'])
  assert.equal(good.action, 'registry:pull')
  assert.equal(handler(good).endpoints[0], good)
  // @ts-expect-error: no such action
  endpoint({ spec: 'x', method: 'GET', path: '/x', action: 'registry:fly', errors: [], needs: [], handle: () => new Response() })
  // @ts-expect-error: an endpoint without an action does not compile
  endpoint({ spec: 'x', method: 'GET', path: '/x', errors: [], needs: [], handle: () => new Response() })
  const base = { spec: 'x', method: 'GET', path: '/x', action: 'public', needs: [], handle: () => new Response() } as const
  // @ts-expect-error: no such error code
  endpoint({ ...base, errors: ['NONSENSE'] })
})
