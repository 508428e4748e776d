// biome-ignore-all lint/suspicious/noTemplateCurlyInString: texts of sources
import { contract, firstStart, golden, interleave, type Layer, linearize, protocol } from './layers.ts'

/** A defect put into a copy of the sources by replacing text that must be found exactly once, and the layers that must see it. */
export interface Mutant {
  name: string
  /** the change is looked for by these, in this order, until one fails */
  layers: readonly Layer[]
  changes: readonly (readonly [file: string, find: string, replace: string])[]
  /** quick enough for the slice that CI runs */
  slice?: true
}

const files = 'runtime/blobs-fs.ts'
const database = 'runtime/database-file.ts'
const commits = 'runtime/database-commit.ts'
const changes = 'runtime/database-changes.ts'
const finish = 'lib/blobs/finish.ts'
const garbage = 'lib/metadata/garbage.ts'
const phases = 'lib/jobs/gc-phases.ts'
const uploads = 'lib/metadata/uploads.ts'
const blobs = 'lib/metadata/blobs.ts'
const schema = 'migrations/0001-registry.sql'

const onDisk = contract('blobs-disk')
const sql = (pattern: string) => contract('metadata-disk', pattern)

export const mutants: readonly Mutant[] = [
  // Files.
  {
    name: 'the digest is the path',
    layers: [interleave('^(reaps|sweeps) over')],
    changes: [[files, '`${hex}.${plain(inc)}`', '`${hex}.one`']],
  },
  {
    name: 'no fsync of a file',
    layers: [onDisk],
    slice: true,
    changes: [[files, '      await syncFile(fd)\n      fchmodSync(fd, 0o444)', '      fchmodSync(fd, 0o444)']],
  },
  {
    name: 'no fsync of the directory of blobs',
    layers: [onDisk],
    changes: [[files, '        await syncDirectory(dirname(target))\n', '']],
  },
  {
    name: 'no fsync of the directory of uploads',
    layers: [onDisk],
    changes: [[files, '      await syncUploads()\n', '']],
  },
  {
    name: 'no fsync of the first password',
    layers: [firstStart],
    changes: [['runtime/bootstrap.ts', ', flush: true })\n        syncNames(root)\n', ' })\n']],
  },
  {
    name: 'a finisher trusts the final name',
    layers: [onDisk],
    changes: [
      [
        files,
        '        await move(source, target)\n',
        '        if ((await sizeOf(target)) !== undefined) return\n        await move(source, target)\n',
      ],
    ],
  },
  {
    name: 'a new file may be an old one',
    layers: [onDisk],
    changes: [[files, 'O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY', 'O_CREAT | O_NOFOLLOW | O_WRONLY']],
  },
  {
    name: 'files go before the number of their removal is noted',
    layers: [protocol('garbage'), protocol('start'), contract('blobs')],
    changes: [['lib/jobs/reap-trash.ts', '  await ctx.blobs.noteReaped(seq)\n', '']],
  },
  // The database.
  {
    name: 'synchronous NORMAL',
    layers: [sql('nobody is answered')],
    slice: true,
    changes: [[database, "pragma('synchronous', 'full', 2)", "pragma('synchronous', 'normal', 1)"]],
  },
  {
    name: 'the -shm file is opened and closed beside the driver',
    layers: [sql('no descriptor')],
    slice: true,
    changes: [
      [
        changes,
        '      readSync(fd, spare, 0, 96, 0)\n',
        '      const own = openSync(file, "r")\n      readSync(own, spare, 0, 96, 0)\n      closeSync(own)\n',
      ],
    ],
  },
  {
    name: 'a checkpoint without the write lock',
    layers: [sql('a checkpoint waits')],
    slice: true,
    changes: [
      [
        database,
        '    await exclusive(() => {',
        '    await (async (work: () => boolean) => work() && exclusive !== undefined)(() => {',
      ],
    ],
  },
  {
    name: "a group member's SQLITE_FULL is taken for its own",
    layers: [sql('fills the disk')],
    slice: true,
    changes: [
      [
        commits,
        '        if (!db.inTransaction) return await oneByOne([...done.map((entry) => entry.waiting), ...group.slice(index)], failed)\n        db.exec',
        '        if (db.inTransaction) db.exec',
      ],
      [
        commits,
        "        db.exec('RELEASE work')\n        failed.push",
        "        if (db.inTransaction) db.exec('RELEASE work')\n        failed.push",
      ],
    ],
  },
  {
    name: 'the log is checkpointed by itself',
    layers: [sql('settings')],
    changes: [[database, "pragma('wal_autocheckpoint', 0)", "pragma('wal_autocheckpoint', 1000)"]],
  },
  {
    name: 'foreign keys are off',
    layers: [sql('settings')],
    changes: [[database, "pragma('foreign_keys', 1)", "pragma('foreign_keys', 0)"]],
  },
  {
    name: "reads from the writer's connection",
    layers: [sql('a read beside')],
    changes: [[database, 'const read = sqlOver(reader, (', 'const read = sqlOver(writer ?? reader, (']],
  },
  {
    name: 'a failing work of a group is not rolled back',
    layers: [contract('metadata', 'in a group')],
    changes: [[commits, "        db.exec('ROLLBACK TO work')\n", '']],
  },
  {
    name: 'answered before COMMIT',
    layers: [sql('COMMIT that fails')],
    changes: [
      [commits, '        commit()\n        resolve(value as never)\n', '        resolve(value as never)\n        commit()\n'],
    ],
  },
  {
    name: 'a group is answered although its COMMIT failed',
    layers: [sql('COMMIT that fails')],
    changes: [
      [
        commits,
        '      abandon()\n      return await oneByOne(\n        done.map((entry) => entry.waiting),\n        failed,\n      )\n',
        '      abandon()\n',
      ],
    ],
  },
  {
    name: 'the journal is written after COMMIT',
    layers: [contract('metadata-both', 'file')],
    changes: [
      [
        commits,
        '        await appendToChain(sql, entries, sha256)\n        commit()\n',
        '        commit()\n        await appendToChain(sql, entries, sha256)\n',
      ],
    ],
  },
  {
    name: 'the lock is taken late',
    layers: [contract('metadata')],
    changes: [[commits, "() => db.exec('BEGIN IMMEDIATE')", "() => db.exec('BEGIN')"]],
  },
  {
    name: 'no trigger keeps live incarnations out of the trash',
    layers: [golden],
    changes: [
      [
        schema,
        'WHEN EXISTS (SELECT 1 FROM blobs WHERE inc = NEW.inc) OR EXISTS (SELECT 1 FROM uploads WHERE inc = NEW.inc)\n',
        'WHEN 0\n',
      ],
    ],
  },
  {
    name: 'remembered answers outlive changes',
    layers: [protocol('manifest'), linearize],
    changes: [['runtime/remember.ts', 'known.revision === before && ', '']],
  },
  // Pushes.
  {
    name: 'no fence',
    layers: [interleave('^(pushes one PATCH over nothing|finishes the open upload over a complete)', '(expires|cancels)')],
    changes: [
      [
        finish,
        'if (!(await endUpload(sql, upload, actor.principal.subject, owner))) {',
        'if ((await endUpload(sql, upload, actor.principal.subject, owner)) === undefined) {',
      ],
    ],
  },
  {
    name: 'the row before the file',
    layers: [interleave('^pushes in one body over nothing', '(sweeps|pulls|asks)')],
    changes: [
      [finish, '    await ctx.blobs.commit(upload.inc, whole.part, digest)\n', ''],
      [
        finish,
        "    ctx.count('uploaded_bytes_total', {}, whole.size)\n",
        "    await ctx.blobs.commit(upload.inc, whole.part, digest)\n    ctx.count('uploaded_bytes_total', {}, whole.size)\n",
      ],
    ],
  },
  {
    name: 'the digest is not compared',
    layers: [protocol('upload')],
    changes: [[finish, '    if (actual !== digest) throw', '    if (actual === undefined) throw']],
  },
  {
    name: 'the offset is not compared',
    layers: [interleave('^appends to the open upload', 'appends')],
    changes: [
      [
        uploads,
        '       epoch = (SELECT epoch FROM instance), touched_at = ?\n     WHERE inc = ? AND repo_id = ? AND principal = ? AND size = ? AND segments = ?',
        '       epoch = (SELECT epoch FROM instance), touched_at = ?\n     WHERE inc = ? AND repo_id = ? AND principal = ? AND ? IS NOT NULL AND ? IS NOT NULL',
      ],
    ],
  },
  {
    name: 'any principal may end an upload',
    layers: [protocol('upload'), protocol('security'), protocol('resume')],
    changes: [[uploads, 'r.deleted_epoch IS NULL AND u.principal = ?`,', 'r.deleted_epoch IS NULL AND ? IS NOT NULL`,']],
  },
  {
    name: 'hidden links count as there',
    layers: [interleave('pushes in one body', 'deletes manifest and blob'), protocol('manifest')],
    changes: [
      [
        'lib/metadata/manifests.ts',
        'WHERE l.repo_id = ? AND l.digest = ? AND l.hidden_epoch IS NULL AND b.state = 0`',
        'WHERE l.repo_id = ? AND l.digest = ? AND b.state = 0`',
      ],
    ],
  },
  {
    name: 'a damaged blob counts as there',
    layers: [protocol('blob'), protocol('verify')],
    changes: [
      [
        blobs,
        'l.digest = ? AND l.hidden_epoch IS NULL AND b.state = 0`,\n    [repository, digest]',
        'l.digest = ? AND l.hidden_epoch IS NULL`,\n    [repository, digest]',
      ],
    ],
  },
  {
    name: 'a duplicate trashes the stored copy',
    layers: [interleave('^pushes in one body over nothing', 'pushes')],
    changes: [[blobs, 'VALUES (?, ?, 0)`, [blob.inc, blob.digest])', 'VALUES (?, ?, 0)`, [stored.inc, blob.digest])']],
  },
  {
    name: 'a push does not heal',
    layers: [protocol('blob'), protocol('verify')],
    changes: [[blobs, 'if (stored.state === 1 || stored.inc === seenDamaged) {', "if (stored.inc === 'never') {"]],
  },
  {
    name: 'a mount asks nobody',
    layers: [protocol('blob'), protocol('security'), interleave('^mounts')],
    changes: [['handlers/oci/upload-start.ts', '    if (!(await findLinkedBlob(sql, source, digest))) return false\n', '']],
  },
  {
    name: 'a manifest asks before its transaction only',
    layers: [interleave('^(asks and pushes|mounts|pushes in one body)', '(collects|deletes)')],
    changes: [
      [
        'handlers/oci/manifest-put.ts',
        '      await change(ctx, { principal, exchange }, async (sql, append) => {\n        const repositoryId',
        `      const early = await ctx.metadata.read.all<{ id: never }>('SELECT id FROM repositories WHERE name = ? AND deleted_epoch IS NULL', [name])
      const asked = early[0] ? await missingReferences(ctx.metadata.read, early[0].id, needed.map((entry) => ({ digest: entry.digest, orManifest: entry.kind === 'child' }))) : []
      await ctx.metadata.read.all('SELECT 1')
      await change(ctx, { principal, exchange }, async (sql, append) => {\n        const repositoryId`,
      ],
      [
        'handlers/oci/manifest-put.ts',
        `        const missing = await missingReferences(
          sql,
          repositoryId,
          needed.map((entry) => ({ digest: entry.digest, orManifest: entry.kind === 'child' })),
        )
`,
        '        const missing = asked\n',
      ],
    ],
  },
  {
    name: 'If-Match is not asked',
    layers: [protocol('manifest'), linearize],
    changes: [
      ['handlers/oci/manifest-put.ts', 'if (!preconditionHolds(request, current)) throw preconditionFailed(current)', ''],
    ],
  },
  // Deletes.
  {
    name: 'deleting a blob takes its link',
    layers: [interleave('over a deleted image', '(undeletes|pulls)')],
    changes: [
      [
        blobs,
        '`UPDATE repo_blobs SET hidden_epoch = (SELECT epoch FROM instance), epoch = (SELECT epoch FROM instance)\n     WHERE repo_id = ? AND digest = ?`',
        '`DELETE FROM repo_blobs WHERE repo_id = ? AND digest = ?`',
      ],
    ],
  },
  {
    name: 'undelete shows no links',
    layers: [interleave('^undeletes over a deleted image')],
    changes: [
      [
        'lib/metadata/undelete.ts',
        'WHERE repo_id = ? AND hidden_epoch IS NOT NULL AND',
        'WHERE repo_id = ? AND hidden_epoch IS NULL AND',
      ],
    ],
  },
  {
    name: 'deleted manifests are not references',
    layers: [protocol('garbage')],
    changes: [
      [
        garbage,
        'WHERE f.digest = l.digest AND m.repo_id = l.repo_id AND',
        'WHERE f.digest = l.digest AND m.repo_id = l.repo_id AND m.deleted_epoch IS NULL AND',
      ],
    ],
  },
  // Upkeep.
  {
    name: 'collection in two transactions',
    layers: [interleave('^collects over a loose blob', '(asks and )?pushes')],
    slice: true,
    changes: [
      [phases, 'const verdict = await judgeLink(sql, item, horizon, nothing)', "const verdict: Verdict = { garbage: '' }"],
      [phases, '  judgeUntagged,\n  neverUsedRepositories,\n}', '  judgeUntagged,\n  neverUsedRepositories,\n  type Verdict,\n}'],
      [
        phases,
        "await takeEach(c, 'link', source, take)",
        `await takeEach(c, 'link', judged(source), take)
  async function* judged(source: Source): Source {
    for await (const { items, progress } of source) {
      const found: Candidate[] = []
      for (const item of items) if ((await judgeLink(read, item, horizon, nothing)).garbage !== undefined) found.push(item)
      yield { items: found, progress }
    }
  }`,
      ],
    ],
  },
  {
    name: 'the row goes after the file',
    layers: [interleave('^collects over a loose blob', '(asks and )?pushes')],
    changes: [
      [
        phases,
        "await takeEach(c, 'blob', source, take)",
        `await takeEach(c, 'blob', removed(source), take)
  async function* removed(source: Source): Source {
    for await (const { items, progress } of source) {
      for (const item of items) {
        const { inc } = await judgeBlob(read, item, horizon, nothing)
        if (inc !== undefined) await c.ctx.blobs.remove([{ incarnation: inc, digest: item.digest }])
      }
      yield { items, progress }
    }
  }`,
      ],
    ],
  },
  {
    name: 'the sweep asks first and lists second',
    layers: [interleave('^sweeps over nothing', '(asks and )?pushes')],
    slice: true,
    changes: [
      [
        'lib/jobs/sweep-orphans.ts',
        '  for await (const files of ctx.blobs.list()) {\n',
        `  const known = JSON.stringify(await ctx.metadata.read.all('SELECT inc FROM uploads UNION SELECT inc FROM blobs UNION SELECT inc FROM trash'))
  for await (const files of ctx.blobs.list()) {
`,
      ],
      [
        'lib/jobs/sweep-orphans.ts',
        'const orphans = await orphansOf(ctx, files)',
        'const orphans = (await orphansOf(ctx, [])).concat(files.filter(({ incarnation }) => !known.includes(incarnation)))',
      ],
    ],
  },
  {
    name: 'the sweep ignores uploads',
    layers: [interleave('^(pushes one PATCH over nothing|finishes the open upload)', 'sweeps'), protocol('garbage')],
    changes: [['lib/jobs/sweep-orphans.ts', 'AND NOT EXISTS (SELECT 1 FROM uploads WHERE inc = f.value ->> 0) ', '']],
  },
  {
    name: 'the sweep takes an incarnation for its file',
    layers: [protocol('garbage')],
    changes: [
      ['lib/jobs/sweep-orphans.ts', 'WHERE inc = f.value ->> 0 AND digest = f.value ->> 1)', 'WHERE inc = f.value ->> 0)'],
    ],
  },
  {
    name: 'the epoch is ignored',
    layers: [protocol('garbage')],
    changes: [['lib/jobs/collect-garbage.ts', 'cold: epoch - retention.coldAfter', 'cold: epoch']],
  },
  {
    name: 'HEAD keeps nothing warm',
    layers: [protocol('garbage')],
    changes: [['handlers/oci/blob-get.ts', '          await keepWarm(ctx, blob, digest)\n', '          void keepWarm\n']],
  },
  {
    name: 'HEAD keeps nothing warm that a manifest holds',
    layers: [protocol('garbage-rules'), protocol('garbage')],
    changes: [
      [
        'handlers/oci/blob-get.ts',
        `  if ((await unlessFull(`,
        `  const held = \`SELECT 1 AS one FROM refs f JOIN manifests m ON m.id = f.manifest_id WHERE f.digest = ? AND m.repo_id = ?\`
  if ((await ctx.metadata.read.all(held, [digest, blob.repositoryId])).length > 0) return
  if ((await unlessFull(`,
      ],
    ],
  },
  {
    name: 'a repository that came back is collected',
    layers: [interleave('collects over a deleted repository', 'undeletes the repository')],
    changes: [[garbage, 'WHERE id = ? AND deleted_epoch <= ?`, [id, deleted]', 'WHERE id = ? AND ? IS NOT NULL`, [id, deleted]']],
  },
  {
    name: 'a repository that is being collected comes back',
    layers: [interleave('collects over a deleted repository', 'undeletes the repository')],
    changes: [['lib/metadata/undelete.ts', 'deleted_epoch > ${givenUp}', 'deleted_epoch IS NOT NULL']],
  },
  {
    name: 'the reaper ignores pins',
    layers: [protocol('garbage')],
    changes: [[garbage, ' AND NOT ${pinned} ORDER BY inc', ' ORDER BY inc']],
  },
  {
    name: 'the sweep ignores pins',
    layers: [protocol('garbage')],
    changes: [['lib/jobs/sweep-orphans.ts', 'WHERE NOT ${pinned}', 'WHERE ${pinned.length > 0}']],
  },
]
