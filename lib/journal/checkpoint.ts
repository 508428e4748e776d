import { seal, sealingKeyOf, unseal } from '../auth/seal.ts'
import { hex } from '../auth/secrets.ts'
import type { Job, JobContext } from '../jobs/job.ts'
import type { Sql } from '../metadata/sql.ts'

export interface Checkpoint {
  seq: number
  hash: Uint8Array
  /** ms since 1970 */
  at: number
  kid: string
  signature: Uint8Array
}
export type CheckpointLine = Checkpoint

const algorithm = { name: 'Ed25519' }

/** What is signed: the number, the time and the hash, as one text. */
const signedText = ({ seq, at, hash }: Pick<Checkpoint, 'seq' | 'at' | 'hash'>): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(`mcr journal ${seq} ${at} ${hex(hash)}`)

/**
 * J4: signs the newest hash when it has moved, keeps the signature, and writes it to the log: what has left the machine with the log
 * cannot be rewritten by who holds the database. The key is its own. Does nothing where this process has no key to unseal it with.
 */
export function checkpointJournal(secret: Uint8Array<ArrayBuffer> | undefined): Job {
  return {
    name: 'checkpoint-journal',
    everyMs: 60_000,
    async run(ctx) {
      if (!secret) return {}
      const [head] = await ctx.metadata.read.all<{ seq: number; hash: Uint8Array; signed: number | null }>(
        `SELECT seq, hash, (SELECT max(seq) FROM journal_checkpoints) AS signed FROM journal ORDER BY seq DESC LIMIT 1`,
      )
      if (!head || head.seq === head.signed) return {}
      const { kid, key } = await journalKey(ctx, secret)
      const at = ctx.now()
      const signature = new Uint8Array(
        await crypto.subtle.sign(algorithm, key, signedText({ seq: head.seq, at, hash: head.hash })),
      )
      await ctx.metadata.write((sql) =>
        sql.run(
          `INSERT INTO journal_checkpoints(seq, hash, at, kid, signature) VALUES (?,?,?,?,?) ON CONFLICT (seq) DO NOTHING`,
          [head.seq, head.hash, at, kid, signature],
        ),
      )
      ctx.log({
        level: 'info',
        event: 'journal_checkpoint',
        seq: head.seq,
        at,
        hash: hex(head.hash),
        kid,
        signature: hex(signature),
      })
      return {}
    },
  }
}

/** The key that signs the journal, and what else leaves the machine to be believed later. Made where there is none. */
export async function journalKey(
  ctx: Pick<JobContext, 'metadata' | 'now' | 'newId'>,
  secret: Uint8Array<ArrayBuffer>,
): Promise<{ kid: string; key: CryptoKey }> {
  const sealing = await sealingKeyOf(secret)
  return (await readKey(ctx.metadata.read, sealing)) ?? (await makeKey(ctx, sealing))
}

/** Makes a new key, which signs from now on. What older ones signed stays provable by their public halves. */
export async function renewJournalKey(
  ctx: Pick<JobContext, 'metadata' | 'now' | 'newId'>,
  secret: Uint8Array<ArrayBuffer>,
): Promise<void> {
  await makeKey(ctx, await sealingKeyOf(secret))
}

async function readKey(sql: Sql, sealing: CryptoKey): Promise<{ kid: string; key: CryptoKey } | undefined> {
  const [row] = await sql.all<{ kid: string; sealed: Uint8Array<ArrayBuffer> }>(
    `SELECT kid, private_sealed AS sealed FROM journal_keys ORDER BY created_at DESC, kid LIMIT 1`,
  )
  if (!row) return undefined
  const jwk = await unseal(sealing, row.sealed, row.kid)
  return { kid: row.kid, key: await crypto.subtle.importKey('jwk', jwk, algorithm, false, ['sign']) }
}

async function makeKey(
  ctx: Pick<JobContext, 'metadata' | 'now' | 'newId'>,
  sealing: CryptoKey,
): Promise<{ kid: string; key: CryptoKey }> {
  const pair = (await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as CryptoKeyPair
  const kid = ctx.newId()
  const publicJwk = JSON.stringify(await crypto.subtle.exportKey('jwk', pair.publicKey))
  const sealed = await seal(sealing, await crypto.subtle.exportKey('jwk', pair.privateKey), kid)
  await ctx.metadata.write((sql) =>
    sql.run(`INSERT INTO journal_keys(kid, public_jwk, private_sealed, created_at) VALUES (?,?,?,?)`, [
      kid,
      publicJwk,
      sealed,
      ctx.now(),
    ]),
  )
  return { kid, key: pair.privateKey }
}

/** Whether a checkpoint was signed by a journal key of this database. */
export async function checkSignature(sql: Sql, checkpoint: Checkpoint): Promise<boolean> {
  const [row] = await sql.all<{ jwk: string }>(`SELECT public_jwk AS jwk FROM journal_keys WHERE kid = ?`, [checkpoint.kid])
  if (!row) return false
  try {
    const key = await crypto.subtle.importKey('jwk', JSON.parse(row.jwk) as JsonWebKey, algorithm, false, ['verify'])
    return await crypto.subtle.verify(algorithm, key, new Uint8Array(checkpoint.signature), signedText(checkpoint))
  } catch {
    return false
  }
}

/** Checkpoints out of lines of the log; other lines are left out. */
export function parseCheckpointLines(lines: string): CheckpointLine[] {
  const found: CheckpointLine[] = []
  for (const line of lines.split('\n')) {
    if (!line.includes('journal_checkpoint')) continue
    try {
      const { seq, at, hash, kid, signature } = JSON.parse(line) as Record<string, unknown>
      if (typeof seq !== 'number' || typeof at !== 'number' || typeof kid !== 'string') continue
      found.push({ seq, at, kid, hash: unhex(String(hash)), signature: unhex(String(signature)) })
    } catch {
      // a line that is no JSON is none of ours
    }
  }
  return found
}

function unhex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16))
}
