import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ifRangeAllows, matchesIfMatch, matchesIfNoneMatch } from '../../lib/http/conditional.ts'
import { isHost } from '../../lib/http/target.ts'
import { isDigestText, parseDigest } from '../../lib/oci/digest.ts'
import { isOciError } from '../../lib/oci/errors.ts'
import { parseManifest } from '../../lib/oci/manifest.ts'
import { isFallbackTag, parseReference, parseRepositoryName, parseTag, parseUploadId } from '../../lib/oci/names.ts'
import { parseContentRange, parseRange } from '../../lib/oci/range.ts'

const code = (work: () => unknown) => {
  try {
    work()
    return 'fine'
  } catch (error) {
    return isOciError(error) ? error.code : String(error)
  }
}

test('repository names', () => {
  for (const name of ['a', 'a/b/c', 'a.b', 'a_b', 'a__b', 'a---b', '0/1', 'a-b.c_d', `${'n'.repeat(255)}`, 'v2', 'blobs/uploads'])
    assert.equal(
      code(() => parseRepositoryName(name)),
      'fine',
      name,
    )
  for (const name of [
    '',
    'A',
    'a/',
    '/a',
    'a//b',
    '-a',
    'a-',
    'a..b',
    'a___b',
    'a._b',
    '_a',
    'a+b',
    'a b',
    'ä',
    'a\n',
    'a\0',
    `${'n'.repeat(256)}`,
    '_catalog',
  ])
    assert.equal(
      code(() => parseRepositoryName(name)),
      'NAME_INVALID',
      JSON.stringify(name),
    )
})

test('tags, digests, references, upload ids', () => {
  for (const tag of ['v1', '_x', '1.2.3-rc.1', 'A', 't'.repeat(128)])
    assert.equal(
      code(() => parseTag(tag)),
      'fine',
    )
  for (const tag of ['', '.x', '-x', 'a+b', 'a/b', 'a:b', 't'.repeat(129), 'a\n'])
    assert.equal(
      code(() => parseTag(tag)),
      'MANIFEST_INVALID',
      tag,
    )
  const [short, long] = [`sha256:${'a'.repeat(64)}`, `sha512:${'0'.repeat(128)}`]
  for (const digest of [short, long])
    assert.equal(
      code(() => parseDigest(digest)),
      'fine',
    )
  for (const digest of [
    '',
    'sha256:',
    `sha256:${'A'.repeat(64)}`,
    `${short}0`,
    short.slice(0, -1),
    `sha384:${'a'.repeat(96)}`,
    'md5:x',
    `${short}\n`,
  ])
    assert.equal(
      code(() => parseDigest(digest)),
      'DIGEST_INVALID',
      digest,
    )
  assert.equal(parseReference('v1').kind, 'tag')
  assert.equal(parseReference(short).kind, 'digest')
  assert.equal(
    code(() => parseReference('a:b')),
    'DIGEST_INVALID',
  )
  assert.equal(
    code(() => parseUploadId('../../x')),
    'BLOB_UPLOAD_UNKNOWN',
  )
  assert.ok(isDigestText('blake3:abc') && !isDigestText('sha256:abc') && !isDigestText(7))
  for (const tag of [`sha256-${'a'.repeat(64)}`, `sha256-${'a'.repeat(64)}.sig`, `sha512-${'b'.repeat(128)}`])
    assert.ok(isFallbackTag(parseTag(tag.slice(0, 128))) || tag.length > 128)
  assert.ok(!isFallbackTag(parseTag('sha256-abc')))
})

test('ranges', () => {
  const rows: [string | null, number, string][] = [
    [null, 10, '{"kind":"whole"}'],
    ['bytes=0-0', 10, '{"kind":"single","first":0,"last":0}'],
    ['bytes=5-', 10, '{"kind":"single","first":5,"last":9}'],
    ['bytes=-3', 10, '{"kind":"single","first":7,"last":9}'],
    ['bytes=-99', 10, '{"kind":"single","first":0,"last":9}'],
    ['bytes=8-99', 10, '{"kind":"single","first":8,"last":9}'],
    ['bytes = 1-2', 10, '{"kind":"single","first":1,"last":2}'],
    ['BYTES=1-2', 10, '{"kind":"single","first":1,"last":2}'],
    ['bytes=3-4,0-1', 10, '{"kind":"multi","ranges":[{"first":3,"last":4},{"first":0,"last":1}]}'],
    ['bytes=0-1,50-60', 10, '{"kind":"single","first":0,"last":1}'],
    ['bytes=2-1', 10, '{"kind":"unsatisfiable"}'],
    ['bytes=10-', 10, '{"kind":"unsatisfiable"}'],
    ['bytes=-0', 10, '{"kind":"unsatisfiable"}'],
    ['bytes=-', 10, '{"kind":"unsatisfiable"}'],
    ['bytes=', 10, '{"kind":"unsatisfiable"}'],
    ['bytes=x', 10, '{"kind":"unsatisfiable"}'],
    ['items=0-1', 10, '{"kind":"whole"}'],
    ['nonsense', 10, '{"kind":"whole"}'],
    ['bytes=0-1', 0, '{"kind":"whole"}'],
    [`bytes=${'0-1,'.repeat(1024)}0-1`, 10, '{"kind":"too-many"}'],
  ]
  for (const [header, size, expected] of rows) assert.equal(JSON.stringify(parseRange(header, size)), expected, String(header))
  assert.deepEqual(parseContentRange('0-9'), { first: 0, last: 9 })
  assert.deepEqual(parseContentRange('bytes 5-9/100'), { first: 5, last: 9 })
  for (const text of ['', '5', '9-5', '-5', 'a-b', '0-9-', '0-99999999999999999999'])
    assert.equal(
      code(() => parseContentRange(text)),
      'BLOB_UPLOAD_INVALID',
      text,
    )
})

test('conditions', () => {
  assert.ok(matchesIfNoneMatch('*', '"a"') && matchesIfNoneMatch('W/"a"', '"a"') && matchesIfNoneMatch('"b", "a"', '"a"'))
  assert.ok(!matchesIfNoneMatch('"b"', '"a"') && !matchesIfNoneMatch('', '"a"'))
  assert.ok(matchesIfMatch('*', '"a"') && matchesIfMatch('"x","a"', '"a"'))
  assert.ok(!matchesIfMatch('*', undefined) && !matchesIfMatch('W/"a"', '"a"'))
  assert.ok(
    ifRangeAllows(null, '"a"') &&
      ifRangeAllows('"a"', '"a"') &&
      !ifRangeAllows('W/"a"', '"a"') &&
      !ifRangeAllows('Tue, 24 Nov 2026 00:00:00 GMT', '"a"'),
  )
})

test('hosts', () => {
  for (const host of ['localhost', 'a.b:5000', '127.0.0.1', '[::1]:80', 'a_b.example']) assert.ok(isHost(host), host)
  for (const host of ['', 'a b', 'a/b', 'x#', 'u@h', 'h:', 'h:x', '-a', 'a:1:2', '[::1', 'a'.repeat(300)])
    assert.ok(!isHost(host), host)
})

test('manifests: what is required, what is not', () => {
  const limits = { jsonDepth: 64, jsonTokens: 100_000, layers: 3, children: 3 }
  const d = (letter: string) => ({ mediaType: 'application/x', digest: `sha256:${letter.repeat(64)}`, size: 1 })
  const parse = (value: unknown, type: string | null = null) =>
    parseManifest(new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value)), type, limits)
  const required = (value: unknown) =>
    parse(value)
      .references.filter((entry) => entry.required)
      .map((entry) => `${entry.kind} ${entry.digest[7]}`)
  const image = { schemaVersion: 2, config: d('c'), layers: [d('a'), { ...d('b'), urls: ['https://x'] }] }
  assert.deepEqual(required(image), ['config c', 'layer a'])
  assert.deepEqual(required({ ...image, subject: d('f') }), [], 'a referrer may come before its layers')
  assert.deepEqual(required({ schemaVersion: 2, manifests: [d('a')] }), ['child a'])
  assert.equal(parse(image).artifactType, 'application/x')
  assert.equal(parse({ schemaVersion: 2, manifests: [] }).artifactType, undefined)
  assert.equal(parse({ ...image, layers: null }).references.length, 1, 'Go writes an empty list as null')
  for (const [what, value] of Object.entries({
    'too many layers': { ...image, layers: [d('a'), d('a'), d('a'), d('a')] },
    'no config': { schemaVersion: 2, layers: [] },
    'annotations that are no texts': { ...image, annotations: { a: 1 } },
    'a size with a fraction': { ...image, layers: [{ ...d('a'), size: 1.5 }] },
    'a type in capitals': JSON.stringify({ ...image, MediaType: 1 }).replace('"schemaVersion":2', '"schemaVersion":1'),
  }))
    assert.equal(
      code(() => parse(value)),
      'MANIFEST_INVALID',
      what,
    )
  assert.equal(
    code(() => parseManifest(new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d]), null, limits)),
    'MANIFEST_INVALID',
    'not UTF-8',
  )
})
