import { create, isWhole, rename, syncBlobs, syncFile, syncUploads, unlinkUpload } from './disk.ts'
import type { Rules } from './rules.ts'
import { type Db, type Move, none, type Program, put, type World } from './state.ts'

/** What clients do: pushes, mounts, second finishers, deletes. Labels name the transaction of the protocol or the system call. */

export interface Push {
  session: number
  repository: number
  /** the body of its PATCH; of its own PUT or POST; of what it joins; 0: there is none */
  patch: number
  own: number
  joined: number
  /** asks HEAD first, or mounts from another repository */
  first?: 'HEAD' | 'mount'
}

export const nameOf = (rules: Rules, session: number) => (rules.has('the digest is the path') ? 1 : session)

const isReadable = ({ db }: World, repository: number, rules: Rules) => {
  const link = db.links[repository]
  const counts = link === 'visible' || (link === 'hidden' && rules.has('hidden links count'))
  return counts && db.blob !== 0 && !db.suspect
}

/** Several file operations that must happen in order, each a step of its own: `at`, what it does, where it leads. */
const fileStep = (label: string, to: string, disk: World['disk'], seen = 0): Move => ({ label, to, disk, seen })

/**
 * One push: HEAD or mount, else POST, PATCH, PUT; then the manifest; then the answer.
 * A PATCH and an empty PUT end by rename; a PATCH and a PUT with a body are joined; a body of its own alone is a monolithic POST.
 */
export function push(plan: Push, rules: Rules): Program {
  const { session, repository, patch, own, first } = plan
  const finishing = finish(plan, rules)
  const writing = (body: number, at: string, to: string): Program => writeSegment(body, at, to, rules)
  return (world, me) => {
    const { db } = world
    const upload = db.uploads[session] ?? none
    switch (me.at) {
      case 'start':
        if (first === 'HEAD')
          return [
            {
              label: 'HEAD',
              to: isReadable(world, repository, rules) ? 'manifest' : 'begin',
              seen: isReadable(world, repository, rules) ? 1 : 0,
            },
          ]
        if (first === 'mount') return [{ label: 'POST with mount', to: 'mount' }]
        return beginUpload(world, plan, rules)
      case 'begin':
        return beginUpload(world, plan, rules)
      case 'mount': {
        if (!isReadable(world, 1 - repository, rules)) return [{ label: 'T4m finds nothing to mount', to: 'begin' }]
        if (rules.has('a mount looks and links in two transactions')) return [{ label: 'T4m looks', to: 'link' }]
        return [{ label: 'T4m link', to: 'manifest', seen: 1, db: { links: put(db.links, repository, 'visible' as const) } }]
      }
      case 'link':
        return [{ label: 'T4m link', to: 'manifest', seen: 1, db: { links: put(db.links, repository, 'visible' as const) } }]
      case 'patch 1':
      case 'patch 2':
      case 'patch 3':
        return writing(patch, 'patch', 'append')(world, me)
      case 'append': {
        const isAsSeen = upload.state !== 'none' && upload.segments.length === 0
        if (!isAsSeen && !rules.has('no upload row before the first file'))
          return [fileStep('T2 refused: unlink the segment', 'end', unlinkUpload(world.disk, patch))]
        return [
          {
            label: 'T2 append',
            to: 'look',
            isLazy: rules.has('no commit waits for the disk'),
            db: { uploads: put(db.uploads, session, { ...upload, segments: [patch] }) },
          },
        ]
      }
      case 'own 1':
      case 'own 2':
      case 'own 3':
        return own !== 0 && patch === 0 ? writing(own, 'own', 'rename')(world, me) : finishing(world, me)
      case 'stored':
        return [{ label: 'PUT manifest', to: 'manifest' }]
      case 'manifest':
      case 'insert':
        return putManifest(world, me.at, me.seen, repository, rules)
      case 'answer':
        return [
          {
            label: '201',
            to: 'end',
            acknowledged: world.deletes[repository] === me.seen ? put(world.acknowledged, repository, true) : undefined,
          },
        ]
      default:
        return finishing(world, me)
    }
  }
}

function beginUpload({ db }: World, { session, patch }: Push, rules: Rules): Move[] {
  const to = patch === 0 ? 'own 1' : 'patch 1'
  if (rules.has('no upload row before the first file')) return [{ label: 'no T1', to }]
  const isLazy = rules.has('no commit waits for the disk')
  return [{ label: 'T1 begin', to, isLazy, db: { uploads: put(db.uploads, session, { ...none, state: 'open' }) } }]
}

/** A new segment: written, synced, its name synced. */
function writeSegment(body: number, at: string, to: string, rules: Rules): Program {
  return ({ disk }, me) => {
    switch (me.at) {
      case `${at} 1`:
        return [fileStep(`write ${at}`, rules.has('no file fsync') ? `${at} 3` : `${at} 2`, create(disk, body))]
      case `${at} 2`:
        return [fileStep(`fsync ${at}`, `${at} 3`, syncFile(disk, body))]
      default:
        if (rules.has('no fsync of the directory of uploads')) return [{ label: 'no fsync of uploads/', to }]
        return [fileStep('fsync uploads/', to, syncUploads(disk))]
    }
  }
}

/** T5: what the manifest needs is asked for in the transaction that writes it. */
function putManifest(world: World, at: string, told: number, repository: number, rules: Rules): Move[] {
  const { db, deletes } = world
  const isThere = isReadable(world, repository, rules) || (told === 1 && rules.has('a manifest trusts what its client was told'))
  if (at === 'manifest' && !isThere) return [{ label: 'T5 misses the blob', to: told === 1 ? 'begin' : 'end' }]
  if (at === 'manifest' && rules.has('the manifest is checked and written in two transactions'))
    return [{ label: 'T5 looks', to: 'insert' }]
  return [
    {
      label: 'T5 manifest',
      to: 'answer',
      seen: deletes[repository],
      isLazy: rules.has('no commit waits for the disk'),
      db: { manifests: put(db.manifests, repository, 'live' as const) },
    },
  ]
}

/** A second PUT of the same session by a client that lost the answer, through any process. It has a body where the first had one. */
export function finisher(plan: Push, rules: Rules): Program {
  const finishing = finish(plan, rules)
  return (world, me) => {
    if (me.at !== 'start') return me.at === 'stored' ? [] : finishing(world, me)
    return (world.db.uploads[plan.session]?.segments.length ?? 0) > 0 ? [{ label: 'PUT again', to: 'look' }] : []
  }
}

/** finishUpload: look, bytes of its own, claim and join, rename, sync, T3; then what was joined goes. */
function finish(plan: Push, rules: Rules): Program {
  const { session, repository, patch, own, joined } = plan
  const name = nameOf(rules, session)
  const owner = `${own}/${joined}`
  const afterRename = rules.has('no fsync of the directory of blobs') ? 'damage' : 'sync'
  const dropOwn = (disk: World['disk']) => unlinkUpload(unlinkUpload(disk, own), joined)
  return (world, me) => {
    const { db, disk } = world
    const upload = db.uploads[session] ?? none
    const giveBack = (label: string): Move => ({
      label,
      to: 'end',
      disk: dropOwn(disk),
      db:
        upload.owner === owner && own !== 0
          ? { uploads: put(db.uploads, session, { ...upload, state: 'open', owner: '' }) }
          : undefined,
    })
    switch (me.at) {
      case 'look':
        // Whether the one segment has its final name already, and then whether every segment is there: two looks at the disk.
        if (own === 0 && disk.finals[name]?.now)
          return [
            { label: 'stat finds the final name', to: rules.has('a finisher trusts the final name') ? 'damage' : afterRename },
          ]
        return [{ label: 'stat finds no final name', to: 'look again' }]
      case 'look again':
        if (disk.uploads[patch]?.now && disk.bodies[patch] !== 'torn')
          return [{ label: 'segments are intact', to: own === 0 ? 'rename' : 'own 1' }]
        if (upload.state === 'none') return [{ label: 'the session is gone', to: 'end' }]
        return [
          {
            label: 'T9 discards: a segment is gone',
            to: 'end',
            db: { uploads: put(db.uploads, session, none), trash: put(db.trash, session, 'without digest' as const) },
          },
        ]
      case 'own 1':
      case 'own 2':
      case 'own 3':
        return writeSegment(own, 'own', 'claim', rules)(world, me)
      case 'claim':
        // Another claim may have gone stale at any moment.
        if (upload.state === 'none' || upload.segments.length !== 1) return [giveBack('claim refused')]
        return [
          { label: 'claim', to: 'join 1', db: { uploads: put(db.uploads, session, { ...upload, state: 'finishing', owner }) } },
        ]
      case 'join 1':
        if (!disk.uploads[patch]?.now || !disk.uploads[own]?.now || disk.bodies[patch] === 'torn')
          return [giveBack('join misses a segment')]
        return writeSegment(joined, 'join', 'rename', rules)(world, me)
      case 'join 2':
      case 'join 3':
        return writeSegment(joined, 'join', 'rename', rules)(world, me)
      case 'rename': {
        const source = joined || own || patch
        if (disk.uploads[source]?.now) return [fileStep('rename', afterRename, rename(disk, source, name))]
        if (disk.finals[name]?.now)
          return [{ label: 'rename finds it done', to: rules.has('a finisher trusts the final name') ? 'damage' : afterRename }]
        return [giveBack('rename finds nothing')]
      }
      case 'sync':
        return [fileStep('fsync blobs/', 'damage', syncBlobs(disk))]
      case 'damage': {
        const isDamaged = db.blob !== 0 && !disk.finals[nameOf(rules, db.blob)]?.now
        return [
          {
            label: isDamaged ? 'the stored copy is missing' : 'look at the stored copy',
            to: 'T3',
            seen: isDamaged ? db.blob : 0,
          },
        ]
      }
      case 'T3': {
        const isFenced =
          upload.state !== 'none' &&
          upload.segments.length === (patch === 0 ? 0 : 1) &&
          (upload.owner === '' || upload.owner === owner)
        if (!isFenced && !rules.has('no fence') && !rules.has('no upload row before the first file')) {
          if (isReadable(world, repository, rules))
            return [{ label: 'T3 fenced: the digest is here', to: joined === 0 ? 'stored' : 'drop' }]
          return [giveBack('T3 fenced: 404')]
        }
        return [
          {
            label: 'T3 store',
            to: joined === 0 ? 'stored' : 'drop',
            isLazy: rules.has('no commit waits for the disk'),
            db: store(world, plan, me.seen, rules),
          },
        ]
      }
      case 'drop':
        return [fileStep('unlink what was joined', 'stored', unlinkUpload(unlinkUpload(disk, patch), own))]
      default:
        return []
    }
  }
}

/** T3: the row of the session goes; its incarnation is the blob's, or trash beside a healthy copy; the link is visible. */
function store({ db }: World, { session, repository }: Push, damaged: number, rules: Rules): Partial<Db> {
  const uploads = put(db.uploads, session, none)
  const links = put(db.links, repository, 'visible' as const)
  const isPath = rules.has('the digest is the path')
  if (db.blob === 0 || db.blob === session) return { uploads, links, blob: session, suspect: false }
  const heals = db.suspect || db.blob === damaged
  const [lives, dies] = heals ? [session, db.blob] : [db.blob, session]
  const dead = rules.has('the wrong copy goes to the trash') ? lives : dies
  const trash = isPath ? db.trash : put(db.trash, dead, 'with digest' as const)
  return { uploads, links, trash, blob: lives, suspect: db.suspect && !heals }
}

/** DELETE of manifest and blob, and undelete, in one repository: each may come once. */
export function deleter(repository: number, rules: Rules): Program {
  return (world, me) => {
    const { db, deletes, acknowledged } = world
    const [manifest, link] = [db.manifests[repository], db.links[repository]]
    const moves: Move[] = []
    const isReferenced = manifest === 'live'
    if (me.at === 'start' && manifest === 'live')
      moves.push({
        label: 'T6 delete manifest',
        to: 'deleted',
        db: { manifests: put(db.manifests, repository, 'deleted' as const) },
        acknowledged: put(acknowledged, repository, false),
        deletes: put(deletes, repository, (deletes[repository] ?? 0) + 1),
      })
    if ((me.at === 'start' || me.at === 'deleted') && link === 'visible' && !isReferenced)
      moves.push({
        label: 'DELETE blob',
        to: 'hidden',
        db: { links: put(db.links, repository, rules.has('deleting a blob takes its link') ? 'none' : 'hidden') },
      })
    const isKept = db.blob !== 0 && link !== 'none'
    if ((me.at === 'deleted' || me.at === 'hidden') && manifest === 'deleted' && isKept && !db.suspect)
      moves.push({
        label: 'undelete',
        to: 'end',
        db: {
          manifests: put(db.manifests, repository, 'live' as const),
          links: rules.has('undelete does not show links') ? db.links : put(db.links, repository, 'visible' as const),
        },
        acknowledged: put(acknowledged, repository, true),
      })
    return moves
  }
}

/** A reader finds the file of the blob's row missing and marks that incarnation. */
export function marker(rules: Rules): Program {
  return ({ db, disk }, me) => {
    if (me.at === 'start' && db.blob !== 0 && !db.suspect) return [{ label: 'GET looks up', to: 'open', seen: db.blob }]
    if (me.at === 'open')
      return [{ label: 'open', to: isWhole(disk, nameOf(rules, me.seen)) ? 'start' : 'missing', seen: me.seen }]
    if (me.at === 'missing')
      return [{ label: 'mark suspect', to: 'start', db: db.blob === me.seen ? { suspect: true } : undefined }]
    return []
  }
}
