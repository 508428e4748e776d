import { change } from '../journal/change.ts'
import { journalHead } from '../journal/read.ts'
import { AdminService } from './gen/mcr/v1/admin_pb.ts'
import { type Operation, operation } from './operation.ts'

const { health, getStatus, rotateKeys } = AdminService.method

/** How the registry itself is. */
export const systemOperations: readonly Operation[] = [
  operation(health, {
    summary: 'whether it answers',
    action: 'public',
    rest: { method: 'GET', path: '/v1/health' },
    cli: { words: 'health' },
    run: async () => ({ status: 'ok' }),
  }),
  operation(getStatus, {
    summary: 'version, and how much there is',
    action: 'system:read',
    rest: { method: 'GET', path: '/v1/status' },
    cli: { words: 'status' },
    async run(_input, _call, ctx) {
      const [row] = await ctx.metadata.read.all<Record<string, number>>(
        `SELECT (SELECT count(*) FROM repositories WHERE deleted_epoch IS NULL AND visible = 1) AS repositories,
           (SELECT count(*) FROM manifests WHERE deleted_epoch IS NULL) AS manifests, (SELECT count(*) FROM tags) AS tags,
           (SELECT count(*) FROM blobs) AS blobs, (SELECT coalesce(sum(size), 0) FROM blobs) AS blobBytes,
           (SELECT count(*) FROM uploads) AS uploads, (SELECT count(*) FROM accounts) AS accounts,
           (SELECT count(*) FROM policy_rules) AS rules, (SELECT epoch FROM instance) AS epoch`,
      )
      const count = (name: string) => BigInt(row?.[name] ?? 0)
      return {
        version: ctx.about.version,
        instance: ctx.about.instance,
        repositories: count('repositories'),
        manifests: count('manifests'),
        tags: count('tags'),
        blobs: count('blobs'),
        blobBytes: count('blobBytes'),
        uploads: count('uploads'),
        accounts: count('accounts'),
        rules: count('rules'),
        journalSeq: BigInt(await journalHead(ctx.metadata.read)),
        epoch: count('epoch'),
      }
    },
  }),
]

/** Its keys: what only a process that has the sealing key can do. */
export const keyOperations: readonly Operation[] = [
  operation(rotateKeys, {
    summary: 'make a new key for registry tokens; those of the old one end with their life',
    action: 'system:manage',
    rest: { method: 'POST', path: '/v1/keys/rotate' },
    cli: { words: 'keys rotate' },
    signs: true,
    async run(_input, call, ctx) {
      const keyId = await ctx.tokens.rotate((kid, insert) =>
        change(ctx, call, async (sql, append) => {
          await insert(sql)
          append({ type: 'keys_rotated', detail: { kid } })
        }),
      )
      return { keyId }
    },
  }),
]
