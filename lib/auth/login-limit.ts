import type { Base, Ports } from '../context.ts'
import { ociError } from '../oci/errors.ts'

const windowMs = 5 * 60_000
/** Failures in a window before an address is refused for one account, and for any. */
const perAccount = 10
const perAddress = 100

type Needs = Pick<Base, 'now'> & Pick<Ports, 'metadata'>

/** Buckets by (account, address) and by address: guessing locks out who guesses, never the account for others (T9). */
function buckets(name: string, address: string): [bucket: string, most: number][] {
  const network = address.includes(':') ? `${address.split(':').slice(0, 4).join(':')}::/64` : address
  return [
    [`${name.slice(0, 128)} ${network}`, perAccount],
    [network, perAddress],
  ]
}

/** Errors: TOOMANYREQUESTS with `Retry-After` while a bucket is full. */
export async function checkLoginLimit(ctx: Needs, name: string, address: string): Promise<void> {
  for (const [bucket, most] of buckets(name, address)) {
    const rows = await ctx.metadata.read.all<{ count: number; ends: number }>(
      `SELECT count, window_ends_at AS ends FROM login_failures WHERE bucket = ? AND window_ends_at BETWEEN ? AND ?`,
      // A window that ends later than any can was opened by a clock that leapt: it must not close a name for years.
      [bucket, ctx.now() + 1, ctx.now() + windowMs],
    )
    if (rows[0] && rows[0].count >= most) {
      const seconds = Math.max(1, Math.ceil((rows[0].ends - ctx.now()) / 1000))
      throw ociError(
        'TOOMANYREQUESTS',
        { retryAfterSeconds: seconds },
        { message: 'too many failed logins', headers: { 'Retry-After': String(seconds) } },
      )
    }
  }
}

/** Counts one failure in the database, so that every process knows. */
export async function countFailedLogin(ctx: Needs, name: string, address: string): Promise<void> {
  const now = ctx.now()
  await ctx.metadata.write(async (sql) => {
    await sql.run(`DELETE FROM login_failures WHERE window_ends_at <= ? OR window_ends_at > ?`, [now, now + windowMs])
    for (const [bucket] of buckets(name, address))
      await sql.run(
        `INSERT INTO login_failures(bucket, count, window_ends_at) VALUES (?, 1, ?) ON CONFLICT (bucket) DO UPDATE SET count = count + 1`,
        [bucket, now + windowMs],
      )
  })
}
