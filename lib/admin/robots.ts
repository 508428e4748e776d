import type { MessageInitShape } from '@bufbuild/protobuf'
import { addAccount, findAccountBy, parseAccountName, removeAccount } from '../auth/accounts.ts'
import { addCredential, prepareSecret } from '../auth/credentials.ts'
import { change } from '../journal/change.ts'
import { isMetadataError } from '../metadata/errors.ts'
import { addRule, allRules } from '../metadata/rules.ts'
import type { Sql } from '../metadata/sql.ts'
import { ociError } from '../oci/errors.ts'
import { beyond, holdingsOf } from '../policy/holdings.ts'
import { checkRule } from '../policy/rule-input.ts'
import { mayGive } from './accounts.ts'
import { AdminService, type RobotSchema } from './gen/mcr/v1/admin_pb.ts'
import { invalid, stamp, stampOrNone } from './input.ts'
import { type Operation, type OperationCall, operation } from './operation.ts'
import { dayMs, parseLife } from './tokens.ts'

const { listRobots, createRobot, rotateRobot, deleteRobot } = AdminService.method

/** Robots: accounts for machines, each with a token and a rule that changes with it only. */
export const robotOperations: readonly Operation[] = [
  operation(listRobots, {
    summary: 'list robots',
    action: 'account:manage',
    rest: { method: 'GET', path: '/v1/robots' },
    cli: { words: 'robot list', columns: ['name', 'actions', 'repositories', 'disabled', 'expires_at', 'last_used_at'] },
    async run(_input, _call, ctx) {
      return { robots: await robots(ctx.metadata.read) }
    },
  }),
  operation(createRobot, {
    summary: 'add a robot: an account for machines with a token and its own rule',
    action: 'account:manage',
    rest: { method: 'POST', path: '/v1/robots', status: 201 },
    cli: { words: 'robot create', args: ['name'] },
    async run(input, call, ctx) {
      const name = parseRobotName(input.name)
      const { secret, hash } = await prepareSecret('robot')
      const now = ctx.now()
      const expiresAt = now + parseLife(input.expiresIn, 365 * dayMs)
      const subject = `robot:${ctx.newId()}`
      const rule = checkRule({
        priority: 100,
        description: `robot ${name}`,
        effect: 'allow',
        roles: [],
        accountTypes: [],
        subject,
        actions: input.actions,
        repositories: input.repositories,
        tags: [],
        networks: [],
        except: { repositories: [], tags: [], networks: [] },
        message: '',
      })
      try {
        await change(ctx, call, async (sql, append) => {
          if (!call.principal.roles.includes('admin')) {
            const enabled = (await allRules(sql)).filter((stored) => stored.enabled).map((stored) => stored.rule)
            const missing = beyond(rule, holdingsOf([...ctx.rules.builtIn, ...enabled], call.principal, now))
            if (missing !== undefined)
              throw ociError('DENIED', undefined, { message: `nobody grants what they do not hold: ${missing}` })
          }
          const accountId = await addAccount(sql, { subject, name, kind: 'system', source: 'robot', roles: [], now })
          await addRule(sql, rule, true, now, accountId)
          await addCredential(sql, { accountId, kind: 'robot', name, hash, expiresAt, now })
          append({ type: 'robot_added', detail: { subject, name } })
        })
      } catch (error) {
        if (isMetadataError(error) && error.code === 'DB_CONSTRAINT')
          throw ociError('CONFLICT', { name }, { message: `an account or robot ${name} exists already` })
        throw error
      }
      return { robot: (await robots(ctx.metadata.read, name))[0], secret }
    },
  }),
  operation(rotateRobot, {
    summary: 'give a robot a new token; the old one is refused from now on',
    action: 'account:manage',
    rest: { method: 'POST', path: '/v1/robots/:name/rotate' },
    cli: { words: 'robot rotate', args: ['name'] },
    async run(input, call, ctx) {
      const { secret, hash } = await prepareSecret('robot')
      const now = ctx.now()
      const expiresAt = now + parseLife(input.expiresIn, 365 * dayMs)
      await change(ctx, call, async (sql, append) => {
        const robot = await mustFindRobot(sql, input.name, call)
        await sql.run(`DELETE FROM credentials WHERE account_id = ? AND kind = 'robot'`, [robot.id])
        await addCredential(sql, { accountId: robot.id, kind: 'robot', name: robot.name, hash, expiresAt, now })
        append({ type: 'robot_rotated', detail: { subject: robot.subject, name: robot.name } })
      })
      return { robot: (await robots(ctx.metadata.read, input.name))[0], secret }
    },
  }),
  operation(deleteRobot, {
    summary: 'delete a robot with its token and rule',
    action: 'account:manage',
    rest: { method: 'DELETE', path: '/v1/robots/:name', status: 204 },
    cli: { words: 'robot delete', args: ['name'] },
    async run(input, call, ctx) {
      await change(ctx, call, async (sql, append) => {
        const robot = await mustFindRobot(sql, input.name, call)
        await removeAccount(sql, robot.id)
        append({ type: 'account_deleted', detail: { subject: robot.subject, name: robot.name } })
      })
      return {}
    },
  }),
]

function parseRobotName(text: string): string {
  try {
    return parseAccountName(text)
  } catch (error) {
    throw invalid('name', (error as Error).message)
  }
}

async function mustFindRobot(sql: Sql, name: string, call: OperationCall) {
  const found = await findAccountBy(sql, name)
  if (found?.source !== 'robot') throw ociError('NOT_FOUND', undefined, { message: `there is no robot ${name.slice(0, 64)}` })
  mayGive(call, found.roles)
  return found
}

async function robots(sql: Sql, name?: string): Promise<MessageInitShape<typeof RobotSchema>[]> {
  const rows = await sql.all<{
    name: string
    subject: string
    disabled: number
    createdAt: number
    rule: string | null
    expiresAt: number | null
    lastUsedAt: number | null
  }>(
    `SELECT a.name, a.subject, a.disabled, a.created_at AS createdAt, p.rule, c.expires_at AS expiresAt, c.last_used_at AS lastUsedAt
     FROM accounts a LEFT JOIN policy_rules p ON p.managed_by = a.id LEFT JOIN credentials c ON c.account_id = a.id AND c.kind = 'robot'
     WHERE a.source = 'robot' AND (? IS NULL OR a.name = ?) ORDER BY a.name LIMIT 10000`,
    [name ?? null, name ?? null],
  )
  return rows.map((row) => {
    const rule = JSON.parse(row.rule ?? '{}') as { actions?: string[]; repositories?: string[] }
    return {
      name: row.name,
      subject: row.subject,
      actions: rule.actions ?? [],
      repositories: rule.repositories ?? [],
      disabled: row.disabled !== 0,
      createdAt: stamp(row.createdAt),
      expiresAt: stampOrNone(row.expiresAt),
      lastUsedAt: stampOrNone(row.lastUsedAt),
    }
  })
}
