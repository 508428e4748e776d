import { randomBytes, randomUUID } from 'node:crypto'
import { existsSync, statSync } from 'node:fs'
import { createInterface } from 'node:readline/promises'
import { Command } from 'commander'
import { addAccount, listAccounts, parseAccountName, parseRole, setPassword } from '../../lib/auth/accounts.ts'
import { change } from '../../lib/journal/change.ts'
import { isMetadataError } from '../../lib/metadata/errors.ts'
import type { Assets } from '../app.ts'
import { firstAdmin, forgetFirstPassword } from '../bootstrap.ts'
import type { Config } from '../config.ts'
import { type Database, openDatabase } from '../database.ts'
import { migrate } from '../migrate.ts'
import { createPasswords } from '../passwords.ts'

/** `mcr account`: works on the registry's own host, while it serves and while it does not. */
export function accountCommand(load: () => Config, assets: Assets): Command {
  const command = new Command('account').description("accounts of this registry, on the registry's own host")

  command
    .command('add <name>')
    .description('add an account')
    .option('--role <role...>', 'roles: admin, user, or your own (people get user by default)')
    .option('--system', 'for machines: no built-in rights')
    .option('--generate', 'make a password and show it once')
    .option('--password-stdin', 'read the password from standard input')
    .action(async (name: string, options: { role?: string[]; system?: true; generate?: true; passwordStdin?: true }) => {
      parseAccountName(name)
      const roles = (options.role ?? (options.system ? [] : ['user'])).map(parseRole)
      await withDatabase(load(), assets, async (ctx) => {
        const { password, generated } = await askPassword(options)
        const passwordHash = await createPasswords().hash(password)
        const subject = `local:${randomUUID()}`
        const kind = options.system ? 'system' : 'human'
        try {
          await change(ctx, ctx.actor, async (sql, append) => {
            await addAccount(sql, { subject, name, kind, roles, passwordHash, now: ctx.now() })
            append({ type: 'account_added', detail: { subject, roles } })
          })
        } catch (error) {
          if (isMetadataError(error) && error.code === 'DB_CONSTRAINT')
            throw new Error(`account ${name} exists; mcr account passwd ${name} sets its password`)
          throw error
        }
        console.log(`added ${name} (${kind}${roles.length > 0 ? `, ${roles.join(', ')}` : ''})`)
        if (generated) console.log(`password: ${password}`)
      })
    })

  command
    .command('list')
    .description('list accounts')
    .option('--json', 'as JSON')
    .action(async (options: { json?: true }) => {
      await withDatabase(load(), assets, async ({ metadata }) => {
        const accounts = await listAccounts(metadata.read, { limit: 10_000, after: 0, offset: 0 })
        const rows = accounts.map(({ name, kind, roles, source, disabled, createdAt }) => ({
          name,
          kind,
          roles,
          source,
          disabled,
          created: new Date(createdAt).toISOString(),
        }))
        if (options.json) console.log(JSON.stringify(rows, null, 2))
        else
          for (const row of rows)
            console.log(
              `${row.name.padEnd(24)} ${row.kind.padEnd(7)} ${row.roles.join(',').padEnd(16)} ${row.disabled ? 'disabled' : 'active'}`,
            )
      })
    })

  command
    .command('passwd <name>')
    .description('set a password; tokens made from the old one stop working at once')
    .option('--generate', 'make a password and show it once')
    .option('--password-stdin', 'read the password from standard input')
    .action(async (name: string, options: { generate?: true; passwordStdin?: true }) => {
      const config = load()
      await withDatabase(config, assets, async (ctx) => {
        const { password, generated } = await askPassword(options)
        const passwordHash = await createPasswords().hash(password)
        await change(ctx, ctx.actor, async (sql, append) => {
          if (!(await setPassword(sql, name, passwordHash))) throw new Error(`there is no account ${name}; see mcr account list`)
          append({ type: 'account_changed', detail: { subject: name, what: 'password' } })
        })
        if (name === firstAdmin) forgetFirstPassword(config.storage.root)
        console.log(`changed the password of ${name}`)
        if (generated) console.log(`password: ${password}`)
      })
    })
  return command
}

interface LocalContext {
  metadata: Database
  now: () => number
  newId: () => string
  actor: { principal: { subject: string } }
}

/** Opens the database as who owns it: whoever owns the data directory administers the registry. */
async function withDatabase(config: Config, assets: Assets, work: (ctx: LocalContext) => Promise<void>): Promise<void> {
  if (config.database.url === undefined) becomeOwner(config.database.path)
  const metadata = await openDatabase(config, (error) => {
    console.error(`mcr: ${error.message}`)
    process.exit(1)
  })
  try {
    await migrate(metadata, assets.migrations)
    await work({
      metadata,
      now: () => Date.now(),
      newId: () => randomUUID(),
      actor: { principal: { subject: `local:${process.getuid?.() ?? 0}` } },
    })
  } finally {
    await metadata.close()
  }
}

/** Steps down from root to who owns the database: files that root made would be closed to the registry. */
function becomeOwner(path: string): void {
  if (!existsSync(path))
    throw new Error(`there is no database at ${path}: start the registry once, or name the right storage.root or database.path`)
  const { uid, gid } = statSync(path)
  if (process.getuid?.() !== 0 || uid === 0) return
  process.setgid?.(gid)
  process.setuid?.(uid)
}

async function askPassword(options: {
  generate?: true
  passwordStdin?: true
}): Promise<{ password: string; generated: boolean }> {
  if (options.generate) return { password: randomBytes(18).toString('base64url'), generated: true }
  if (!options.passwordStdin && !process.stdin.isTTY) throw new Error('no terminal to ask on: use --generate or --password-stdin')
  const lines = createInterface({
    input: process.stdin,
    output: options.passwordStdin ? undefined : process.stderr,
    terminal: false,
  })
  if (!options.passwordStdin) process.stderr.write('Password: ')
  const { value } = await lines[Symbol.asyncIterator]().next()
  lines.close()
  const password = String(value ?? '')
  if (password.length < 8) throw new Error('a password of at least 8 characters, please')
  return { password, generated: false }
}
