import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { openTestBlobs, treeOf } from '../support/blobs.ts'

const strace = spawnSync('strace', ['-V']).status === 0
const skip = strace ? false : 'strace is not installed'

/**
 * Opening a store that is already there syncs three directories. strace counts the calls of each thread: the thread that writes makes as many
 * before, so that what comes after them is the upload's, whichever thread it is in.
 */
const syncsAtOpen = 3

/**
 * Runs a script over an open store in a process of its own, under strace. Shape: the calls after the store was opened, with paths below
 * its root; what the script said, line by line.
 */
async function trace(
  t: TestContext,
  inject: string[],
  script: string,
): Promise<{ calls: string[]; lines: string[]; root: string }> {
  const { root, options } = await openTestBlobs(t)
  const module = new URL('../../runtime/blobs-fs.ts', import.meta.url).href
  const code = `
    import { open } from 'node:fs/promises'
    import { openBlobsFs } from ${JSON.stringify(module)}
    const root = await open(${JSON.stringify(root)})
    for (let sync = 0; sync < ${syncsAtOpen}; sync++) await root.sync()
    const store = await openBlobsFs(${JSON.stringify(options)})
    const put = (bytes) => store.writeSegment('up', bytes, { limit: 1e9 })
    const say = async (work) => console.log(await work.then(() => 'done', (error) => error.code))
    console.error('begin')
    ${script}`
  const calls =
    'trace=openat,write,pwrite64,pwritev,writev,fsync,fdatasync,fchmod,close,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,statfs'
  const log = `${root}.trace`
  const node = [process.execPath, '--input-type=module', '-e', code]
  t.after(() => rmSync(log, { force: true }))
  const run = spawnSync('strace', ['-f', '-y', '-o', log, '-e', calls, ...inject.flatMap((one) => ['-e', one]), ...node], {
    encoding: 'utf8',
    // strace counts the calls of each thread: one thread makes the count say which call it is.
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
  })
  assert.equal(run.status, 0, run.stderr)
  const all = readFileSync(log, 'utf8').split('\n')
  const begin = all.findIndex((line) => line.includes('"begin\\n"'))
  const paths = all.slice(begin).map((line) => line.replaceAll(root, ''))
  return { calls: paths, lines: run.stdout.trim().split('\n'), root }
}

/** The calls of interest in the order in which the kernel finished them. */
function order(calls: string[]): string[] {
  const steps: string[] = []
  const unfinished = new Map<string, string>()
  for (const line of calls) {
    const [, pid = '', rest = ''] = /^(\d+) +(.*)$/.exec(line) ?? []
    if (rest.includes('<unfinished')) {
      unfinished.set(pid, rest.replace('<unfinished ...>', ''))
      continue
    }
    const whole = rest.startsWith('<...') ? (unfinished.get(pid) ?? '') + rest.replace(/^<\.\.\. \w+ resumed>/, '') : rest
    if (/ = -1 /.test(whole)) continue
    const step = describe(whole)
    if (step && steps.at(-1) !== step) steps.push(step)
  }
  return steps
}

function describe(call: string): string | undefined {
  const path = (text: string | undefined) =>
    text
      ?.replace(/up\.[0-9a-f]+/, 'PART')
      .replace(/[0-9a-f]{64}/, 'HEX')
      .replace(/sha256\/[0-9a-f]{2}/, 'sha256/XX')
  const [, name, file] = /^(\w+)\([\d-]+<([^>]*)>/.exec(call) ?? []
  const rename = /^rename\w*\((?:AT_FDCWD\S*, )?"([^"]*)", (?:AT_FDCWD\S*, )?"([^"]*)"/.exec(call)
  if (rename) return `rename ${path(rename[1])} ${path(rename[2])}`
  if (!file?.startsWith('/')) return undefined
  // One buffer or several: libuv chooses the call.
  if (name === 'pwritev' || name === 'pwrite64') return `write ${path(file)}`
  if (name === 'fsync' || name === 'fchmod') return `${name} ${path(file)}`
  return undefined
}

test('a blob is written, synced, renamed and its directories synced, in this order', { skip }, async (t) => {
  const { calls, lines, root } = await trace(
    t,
    [],
    `const one = await put(new Uint8Array(3e6))
     await say(store.commit('up', one.part, one.sha256))`,
  )
  assert.deepEqual(lines, ['done'])
  assert.equal(treeOf(root).length, 1)
  assert.deepEqual(order(calls), [
    'write /uploads/PART',
    'fsync /uploads/PART',
    'fchmod /uploads/PART',
    'fsync /uploads',
    // The shard is new: its name, and that of its parent, are durable before anything is put into it.
    'fsync /blobs',
    'fsync /blobs/sha256',
    'rename /uploads/PART /blobs/sha256/XX/HEX.up',
    'fsync /blobs/sha256/XX',
  ])
  const created = calls.filter((line) => line.includes('O_CREAT') && line.includes('/uploads/'))
  assert.equal(created.length, 1)
  assert.match(created[0] as string, /O_EXCL/)
  assert.match(created[0] as string, /O_NOFOLLOW/)
  assert.match(created[0] as string, /0600/)
})

test('a commit that finds the blob in place syncs its directory all the same', { skip }, async (t) => {
  const { calls, lines } = await trace(
    t,
    [],
    `const one = await put(new Uint8Array(10))
     await store.commit('up', one.part, one.sha256)
     await say(store.commit('up', one.part, one.sha256))`,
  )
  assert.deepEqual(lines, ['done'])
  assert.equal(order(calls).filter((step) => step === 'fsync /blobs/sha256/XX').length, 1, 'merged by order()')
  assert.equal(calls.filter((line) => /fsync\(\d+<\/blobs\/sha256\/[0-9a-f]{2}>/.test(line)).length, 2)
})

test('joined segments are synced like any other', { skip }, async (t) => {
  const { calls, lines } = await trace(
    t,
    [],
    `const parts = [await put(new Uint8Array(1e6)), await put(new Uint8Array(2e6))]
     const { segment, digest } = await store.join('up', parts, 'sha512')
     await say(store.commit('up', segment.part, digest))`,
  )
  assert.deepEqual(lines, ['done'])
  const steps = order(calls)
  const join = steps.slice(steps.indexOf('write /uploads/PART'))
  assert.deepEqual(join.slice(0, 4), ['write /uploads/PART', 'fsync /uploads/PART', 'fchmod /uploads/PART', 'fsync /uploads'])
  assert.match(join.at(-1) as string, /^fsync \/blobs\/sha512/)
})

const failures: [string, string, string][] = [
  ['a full disk', 'inject=pwrite64,pwritev:error=ENOSPC', 'BLOB_FULL'],
  ['a used up quota', 'inject=pwrite64,pwritev:error=EDQUOT', 'BLOB_FULL'],
  ['a write that fails', 'inject=pwrite64,pwritev:error=EIO', 'BLOB_IO'],
  ['a sync that fails', 'inject=fsync:error=EIO:when=1', 'BLOB_IO'],
  ['a directory sync that fails', 'inject=fsync:error=EIO:when=2', 'BLOB_IO'],
  ['a mode that cannot be set', 'inject=fchmod:error=EPERM', 'BLOB_IO'],
]
for (const [name, inject, code] of failures)
  test(`${name} fails the upload, which leaves nothing and is not tried again`, { skip }, async (t) => {
    const { calls, lines, root } = await trace(t, [shifted(inject)], `await say(put(new Uint8Array(2e6)))`)
    assert.deepEqual(lines, [code])
    assert.deepEqual(treeOf(root), [])
    const failed = calls.findIndex((line) => line.includes('(INJECTED)'))
    assert.notEqual(failed, -1)
    assert.equal(calls.slice(failed + 1).filter((line) => /fsync|pwrite/.test(line)).length, 0, 'no retry')
  })

function shifted(inject: string): string {
  return inject.replace(/when=(\d+)/, (_, nth: string) => `when=${Number(nth) + syncsAtOpen}`)
}

test('too many open files are told apart from a broken disk', { skip }, async (t) => {
  const { lines, root } = await trace(
    t,
    [],
    `const one = await put(new Uint8Array(10))
     await store.commit('up', one.part, one.sha256)
     const { openSync } = await import('node:fs')
     const { execFileSync } = await import('node:child_process')
     execFileSync('prlimit', ['--pid', String(process.pid), '--nofile=40:40'])
     try { for (;;) openSync('/dev/null') } catch {}
     await say(put(new Uint8Array(10)))
     await say(store.open(one.sha256, 'up', 10))`,
  )
  assert.deepEqual(lines, ['BLOB_BUSY', 'BLOB_BUSY'])
  assert.equal(treeOf(root).length, 1)
})

test('once the disk was slow, files are opened in the thread pool', { skip }, async (t) => {
  const { calls, lines } = await trace(
    t,
    ['inject=openat:delay_exit=8000'],
    `const one = await put(Buffer.from('small'))
     await store.commit('up', one.part, one.sha256)
     for (const _ of [1, 2]) console.log(Buffer.from(await store.open(one.sha256, 'up', 5)).toString())`,
  )
  assert.deepEqual(lines, ['small', 'small'])
  const threads = calls.filter((line) => /openat.*\/[0-9a-f]{64}\.up", O_RDONLY/.test(line)).map((line) => line.split(' ')[0])
  assert.equal(threads.length, 2)
  assert.notEqual(threads[0], threads[1])
})

test('a network file system is refused', { skip }, async (t) => {
  const { options } = await openTestBlobs(t)
  const module = new URL('../../runtime/blobs-fs.ts', import.meta.url).href
  const code = `import { openBlobsFs } from ${JSON.stringify(module)}
    await openBlobsFs(${JSON.stringify(options)}).catch((error) => console.log(error.message))`
  // The kernel's answer is overwritten: its first eight bytes are the type, 0x6969.
  const poke = 'inject=statfs:poke_exit=@arg2=6969000000000000'
  const args = ['-f', '-o', '/dev/null', '-e', 'trace=statfs', '-e', poke, process.execPath, '--input-type=module', '-e', code]
  const run = spawnSync('strace', args, { encoding: 'utf8' })
  assert.match(run.stdout, /network file system \(NFS\).*use a local disk/, run.stderr)
})
