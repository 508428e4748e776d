// Where the executable puts the database driver's addon, and where it refuses to.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { addonDirectory, extractAddon } from '../../runtime/native-load.ts'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-addon-'))
after(() => rmSync(scratch, { recursive: true, force: true }))
let count = 0
const fresh = () => join(scratch, `place-${++count}`)
const bytes = Buffer.from('the bytes of an addon')
const name = `${createHash('sha256').update(bytes).digest('hex')}.node`
const root = process.getuid?.() === 0

test('the addon lies in a private file named by its hash, and is used again', () => {
  const place = join(fresh(), 'mcr/native')
  const file = extractAddon(name, bytes, place)
  assert.match(file, /\/[0-9a-f]{64}\.node$/)
  assert.equal(statSync(place).mode & 0o777, 0o700)
  assert.equal(statSync(file).mode & 0o777, 0o500)
  const { ino } = statSync(file)
  assert.equal(extractAddon(name, bytes, place), file)
  assert.equal(statSync(file).ino, ino)
  assert.deepEqual(readdirSync(place).length, 1, 'nothing is left beside it')
})

const wrong: [what: string, spoil: (file: string) => void][] = [
  ['other bytes of the same size', (file) => writeFileSync(file, Buffer.alloc(bytes.length))],
  ['a part of it', (file) => writeFileSync(file, bytes.subarray(4))],
  [
    'a link to somebody’s file',
    (file) => {
      const elsewhere = `${file}.elsewhere`
      copyFileSync(file, elsewhere)
      rmSync(file)
      symlinkSync(elsewhere, file)
    },
  ],
  ['a file that others can write', (file) => chmodSync(file, 0o522)],
]
if (root) wrong.push(['a file of another user', (file) => chownSync(file, 65_534, 65_534)])
for (const [what, spoil] of wrong)
  test(`${what} in its place is not loaded, but written anew`, () => {
    const place = fresh()
    const file = extractAddon(name, bytes, place)
    chmodSync(file, 0o700)
    spoil(file)
    assert.equal(extractAddon(name, bytes, place), file)
    assert.deepEqual(readFileSync(file), bytes)
    assert.equal(statSync(file).mode & 0o777, 0o500)
  })

const unfit: [what: string, prepare: (place: string) => string, why: RegExp][] = [
  [
    'a directory that others can read',
    (place) => {
      mkdirSync(place, { mode: 0o755 })
      return place
    },
    /is open to others.*MCR_NATIVE_DIR/,
  ],
  [
    'a link to a directory',
    (place) => {
      mkdirSync(`${place}-real`, { mode: 0o700 })
      symlinkSync(`${place}-real`, place)
      return place
    },
    /is a link/,
  ],
  [
    'a directory below one that others can write',
    (place) => {
      mkdirSync(place)
      chmodSync(place, 0o777)
      return join(place, 'native')
    },
    /can be written by others/,
  ],
  [
    'a file',
    (place) => {
      writeFileSync(place, '')
      return place
    },
    /cannot be made/,
  ],
]
if (root)
  unfit.push([
    'a directory of another user',
    (place) => {
      mkdirSync(place, { mode: 0o700 })
      chownSync(place, 65_534, 65_534)
      return place
    },
    /belongs to another user/,
  ])
for (const [what, prepare, why] of unfit)
  test(`${what} is refused`, () => {
    const place = prepare(fresh())
    assert.throws(() => extractAddon(name, bytes, place), why)
  })

test('what root has put where nobody else can write is taken as it is', () => {
  const place = fresh()
  const file = extractAddon(name, bytes, place)
  chmodSync(place, 0o755)
  assert.equal(extractAddon(name, bytes, place), file)
})

test('the directory is the named one, the unit’s, or the user’s cache', () => {
  assert.equal(addonDirectory({ MCR_NATIVE_DIR: '/a', CACHE_DIRECTORY: '/b' }), '/a')
  assert.equal(addonDirectory({ CACHE_DIRECTORY: '/b:/c', XDG_CACHE_HOME: '/d' }), '/b/native')
  assert.equal(addonDirectory({ XDG_CACHE_HOME: '/d' }), '/d/mcr/native')
  assert.match(addonDirectory({}), /\/\.cache\/mcr\/native$/)
})

test('eight first starts at once all load it, and one file is there', async () => {
  const place = fresh()
  const children = Array.from({ length: 8 }, () =>
    spawn('dist/mcr', ['--version', '--verbose'], {
      env: { MCR_NATIVE_DIR: place },
      stdio: ['ignore', 'pipe', 'inherit'],
    }),
  )
  const texts = await Promise.all(
    children.map(async (child) => {
      let text = ''
      child.stdout.on('data', (chunk: Buffer) => {
        text += chunk
      })
      await once(child, 'close')
      return text
    }),
  )
  for (const text of texts) assert.match(text, /single executable[\s\S]*sqlite 3\.[0-9]+/)
  assert.equal(readdirSync(place).length, 1)
})

test('NODE_OPTIONS of the surroundings does not steer the executable', async () => {
  const proof = fresh()
  writeFileSync(`${proof}.cjs`, `require('fs').writeFileSync(${JSON.stringify(proof)}, '')`)
  const child = spawn('dist/mcr', ['--version'], { env: { NODE_OPTIONS: `--require ${proof}.cjs` }, stdio: 'ignore' })
  const [status] = (await once(child, 'close')) as [number]
  assert.equal(status, 0)
  assert.ok(!existsSync(proof))
})
