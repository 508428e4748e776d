// Two builds of one commit, in two folders of different depth: every file the same to the byte.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const scratch = mkdtempSync(join(tmpdir(), 'mcr-twice-'))
after(() => rmSync(scratch, { recursive: true, force: true }))
const own = `${process.platform}-${process.arch}`

/** The sums of a build of the files that git has, on node_modules of its own; `shell` is run there first. */
function build(directory: string, shell: string): string {
  mkdirSync(directory, { recursive: true })
  const files = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'])
  execFileSync('sh', ['-c', `tar --null -T - -cf - | tar -xf - -C ${directory}`], { input: files })
  // Nothing writes there; on another file system there are no links to it.
  const copied = spawnSync('cp', ['-alH', 'node_modules', directory], { stdio: 'ignore' })
  if (copied.status !== 0) execFileSync('cp', ['-aH', '--force', 'node_modules', directory])
  const words = ['-c', `${shell}; exec "$0" deploy/build/binary.ts ${own}`, process.execPath]
  execFileSync('sh', words, { cwd: directory, stdio: ['ignore', 'ignore', 'inherit'] })
  return readFileSync(join(directory, 'dist/SHA256SUMS'), 'utf8')
}

test('two builds in two places are the same to the byte, and vouch for nothing that lay there before', () => {
  const one = build(join(scratch, 'one'), 'true')
  const two = build(join(scratch, 'deeper/and/longer/two'), 'umask 077; mkdir dist; echo stale >dist/mcr-linux-old')
  assert.equal(two, one)
  assert.match(one, new RegExp(`^[0-9a-f]{64}  mcr-${own}$`, 'm'))
  assert.ok(one.includes(execFileSync('sha256sum', [join(scratch, `one/dist/mcr-${own}`)], { encoding: 'utf8' }).slice(0, 64)))
})
