import { isWhole, unlinkFinal, unlinkUpload } from './disk.ts'
import { nameOf } from './requests.ts'
import type { Rules } from './rules.ts'
import { type Db, type Move, none, type Program, put, type World } from './state.ts'

/** What the registry does by itself: collection, reaping, expiry, the sweep. Each is a loop that may die at any step. */

const isReferenced = (db: Db, repository: number, rules: Rules) => {
  const manifest = db.manifests[repository]
  return manifest === 'live' || (manifest === 'deleted' && !rules.has('deleted manifests are not references'))
}

/** T7: manifests past the undelete window, links that nothing references, blobs without a link. Every one asks in its own transaction. */
export function collector(rules: Rules): Program {
  const isLazy = rules.has('collecting does not wait for the disk') || rules.has('no commit waits for the disk')
  const isPath = rules.has('the digest is the path')
  return (world, me) => {
    const { db } = world
    const moves: Move[] = []
    const dropBlob = (): Partial<Db> => ({
      blob: 0,
      suspect: false,
      trash: put(db.trash, isPath ? 1 : db.blob, 'with digest' as const),
    })
    if (me.at === 'taken') {
      // The look of an earlier transaction, trusted.
      if (db.blob !== me.seen) return [{ label: 'T7 finds another copy', to: 'start' }]
      return [{ label: 'T7 takes what it saw', to: 'start', db: { ...dropBlob(), links: ['none', 'none'] } }]
    }
    if (me.at === 'unlinked') {
      const isFree = db.blob === me.seen && !db.links.some((_, repository) => isReferenced(db, repository, rules))
      return [
        {
          label: 'T7 after the unlink',
          to: 'start',
          db: isFree ? { blob: 0, suspect: false, links: ['none', 'none'] } : undefined,
        },
      ]
    }
    const isGarbage = db.blob !== 0 && !db.manifests.some((_, repository) => isReferenced(db, repository, rules))
    if (rules.has('collection in two transactions')) return isGarbage ? [{ label: 'T7 looks', to: 'taken', seen: db.blob }] : []
    if (rules.has('the row goes after the file'))
      return isGarbage
        ? [{ label: 'unlink before T7', to: 'unlinked', seen: db.blob, disk: unlinkFinal(world.disk, nameOf(rules, db.blob)) }]
        : []
    db.manifests.forEach((manifest, repository) => {
      if (manifest === 'deleted')
        moves.push({
          label: `T7a manifest ${repository}`,
          to: 'start',
          isLazy,
          db: { manifests: put(db.manifests, repository, 'none' as const) },
        })
      if (db.links[repository] !== 'none' && !isReferenced(db, repository, rules))
        moves.push({
          label: `T7b link ${repository}`,
          to: 'start',
          isLazy,
          db: { links: put(db.links, repository, 'none' as const) },
        })
    })
    if (db.blob !== 0 && db.links.every((link) => link === 'none'))
      moves.push({ label: 'T7c blob', to: 'start', isLazy, db: dropBlob() })
    return moves
  }
}

const readTrash = (db: Db): Move[] =>
  db.trash.flatMap((state, at) =>
    state === 'no' ? [] : [{ label: `T8 reads trash ${at}`, to: 'count', seen: state === 'with digest' ? at + 100 : at }],
  )

/**
 * T8: reads the trash, removes the final name and what is left under uploads/, forgets the row. Trash and pins are read in one statement.
 * `counts`: with the number of each removal, which grows for ever where a loop dies and begins again; it matters only to a database that is
 * put back.
 */
export function reaper(
  bodiesOf: readonly (readonly number[])[],
  rules: Rules,
  { counts }: { counts: boolean } = { counts: false },
): Program {
  return (world, me) => {
    const { db, disk } = world
    const named = me.seen > 100
    const session = named ? me.seen - 100 : me.seen
    switch (me.at) {
      case 'start':
        if (rules.has('the reaper asks for pins in a statement of its own'))
          return db.pinned ? [] : [{ label: 'T8 sees no pin', to: 'trash' }]
        return db.pinned && !rules.has('the reaper ignores pins') ? [] : readTrash(db)
      case 'trash':
        return readTrash(db)
      case 'count':
        if (!counts || rules.has('files go before the number of their removal is noted'))
          return [{ label: 'no number', to: 'final', seen: me.seen }]
        return [{ label: 'T8 counts', to: 'note', seen: me.seen, db: { removals: db.removals + 1 } }]
      case 'note':
        return [{ label: `notes removal ${db.removals}`, to: 'final', seen: me.seen, disk: { ...disk, noted: db.removals } }]
      case 'final':
        return [
          {
            label: `unlink final name ${session}`,
            to: 'parts',
            seen: me.seen,
            disk: named ? unlinkFinal(disk, nameOf(rules, session)) : disk,
          },
        ]
      case 'parts':
        return [
          {
            label: `unlink parts ${session}`,
            to: 'row',
            seen: me.seen,
            disk: (bodiesOf[session] ?? []).reduce(unlinkUpload, disk),
          },
        ]
      default:
        return [
          {
            label: `T8' forgets ${session}`,
            to: 'start',
            isLazy: rules.has('no commit waits for the disk'),
            db: { trash: put(db.trash, session, 'no' as const) },
          },
        ]
    }
  }
}

/** T9, and a client that cancels: the row goes, then its files; the reaper does them again. */
export function expiry(bodiesOf: readonly (readonly number[])[], rules: Rules): Program {
  const isLazy = rules.has('expiry does not wait for the disk') || rules.has('no commit waits for the disk')
  return ({ db, disk }, me) => {
    const takeRow = (session: number, to: string): Move => ({
      label: `T9 expire ${session}`,
      to,
      seen: to === 'start' ? 0 : session,
      isLazy,
      db:
        db.uploads[session]?.state === 'none'
          ? undefined
          : { uploads: put(db.uploads, session, none), trash: put(db.trash, session, 'without digest' as const) },
    })
    const takeFiles = (session: number, to: string): Move => ({
      label: `unlink parts of expired ${session}`,
      to,
      seen: to === 'start' ? 0 : session,
      disk: (bodiesOf[session] ?? []).reduce(unlinkUpload, disk),
    })
    const filesFirst = rules.has('expiry takes files before the row')
    if (me.at === 'row') return [takeRow(me.seen, 'start')]
    if (me.at === 'files') return [takeFiles(me.seen, 'start')]
    return db.uploads.flatMap(({ state }, session) =>
      state === 'none' ? [] : [filesFirst ? takeFiles(session, 'row') : takeRow(session, 'files')],
    )
  }
}

/** T10: sees a file, asks for its incarnation in one statement, removes it if no row knows it and nothing is pinned. */
export function sweeper(sessionOf: readonly number[], bodiesOf: readonly (readonly number[])[], rules: Rules): Program {
  const isPath = rules.has('the digest is the path')
  /** A file by number: a body under uploads/, or a final name beyond 100. */
  const files = ({ disk }: World) => [
    ...disk.uploads.flatMap(({ now }, body) => (now ? [body] : [])),
    ...disk.finals.flatMap(({ now }, name) => (now ? [100 + name] : [])),
  ]
  const sessionAt = (file: number) => (file > 100 ? file - 100 : (sessionOf[file] ?? 0))
  const isUpload = (db: Db, file: number) => {
    if (rules.has('the sweep ignores uploads')) return false
    return isPath ? db.uploads.some(({ state }) => state !== 'none') : db.uploads[sessionAt(file)]?.state !== 'none'
  }
  const isBlob = (db: Db, file: number) => {
    if (isPath) return db.blob !== 0
    if (file < 100 && !rules.has('the sweep keeps what an incarnation left in uploads')) return false
    return db.blob === sessionAt(file)
  }
  const isTrash = (db: Db, file: number) => !isPath && db.trash[sessionAt(file)] !== 'no'
  const isKept = (db: Db, file: number) => db.pinned || isUpload(db, file) || isTrash(db, file) || isBlob(db, file)
  const all = (world: World) =>
    [...world.disk.uploads.keys(), ...world.disk.finals.keys().map((name) => 100 + name)].filter((file) => sessionAt(file) > 0)
  return (world, { at, seen }) => {
    const { db, disk } = world
    if (at === 'start' && rules.has('the sweep asks first and lists second'))
      return all(world)
        .filter((file) => !isKept(db, file))
        .map((file) => ({ label: `asks for ${file}: unknown`, to: 'list', seen: file }))
    if (at === 'list') return [{ label: 'lists', to: files(world).includes(seen) ? 'remove' : 'start', seen }]
    const first = rules.has('the sweep asks for blobs before uploads') ? 'ask for blobs' : 'ask'
    if (at === 'start') return files(world).map((file) => ({ label: `lists file ${file}`, to: first, seen: file }))
    if (at === 'ask for blobs') return [{ label: at, to: isBlob(db, seen) ? 'start' : 'ask for the rest', seen }]
    if (at === 'ask for the rest') return [{ label: at, to: isUpload(db, seen) || isTrash(db, seen) ? 'start' : 'remove', seen }]
    if (at === 'ask')
      return [isKept(db, seen) ? { label: 'it lives', to: 'start' } : { label: 'nobody knows it', to: 'remove', seen }]
    if (seen < 100) return [{ label: `sweep part ${seen}`, to: 'start', disk: unlinkUpload(disk, seen) }]
    if (at === 'remove')
      return [{ label: `sweep final name ${seen - 100}`, to: 'rest', seen, disk: unlinkFinal(disk, seen - 100) }]
    return [
      { label: `sweep the rest of ${seen - 100}`, to: 'start', disk: (bodiesOf[seen - 100] ?? []).reduce(unlinkUpload, disk) },
    ]
  }
}

/** A backup: pins, copies the database, then the file that its copy names, unpins. Ends at `incomplete` where the file is not there. */
export function backup(rules: Rules): Program {
  const pinsLate = rules.has('a backup pins after it copied the database')
  return ({ db, disk }, { at, seen }) => {
    const copy = (to: string): Move => ({ label: `copies the database, naming ${db.blob}`, to, seen: db.blob })
    const pin = (to: string): Move => ({ label: 'pins', to, seen, db: { pinned: true } })
    switch (at) {
      case 'start':
        return [pinsLate ? copy('pin') : pin('copy')]
      case 'pin':
        return [pin('file')]
      case 'copy':
        return [copy('file')]
      case 'file':
        return [{ label: 'copies the file', to: seen === 0 || isWhole(disk, nameOf(rules, seen)) ? 'unpin' : 'incomplete' }]
      case 'unpin':
        return [{ label: 'unpins', to: 'end', db: { pinned: false } }]
      default:
        return []
    }
  }
}
