import type { MessageInitShape } from '@bufbuild/protobuf'
import { accountOfCode } from '../auth/browser-login.ts'
import { addCredential, prepareSecret } from '../auth/credentials.ts'
import { addTrusted, listTrusts as allTrusts, grantOf, type Trust } from '../auth/trusts.ts'
import { change } from '../journal/change.ts'
import { allRules } from '../metadata/rules.ts'
import { ociError } from '../oci/errors.ts'
import { beyond, holdingsOf } from '../policy/holdings.ts'
import { checkRule } from '../policy/rule-input.ts'
import { checkRoles, mayGive } from './accounts.ts'
import { AdminService, type TrustSchema } from './gen/mcr/v1/admin_pb.ts'
import { invalid, parseWords, stamp } from './input.ts'
import { addLogin } from './logins.ts'
import { type Operation, operation } from './operation.ts'

const { listTrusts, createTrust, deleteTrust, exchangeToken } = AdminService.method

/** A token given for an ID token lives this long at most. */
const exchangedMs = 3_600_000

/** Issuers whose ID tokens are exchanged: CI jobs push and pull without a stored secret. */
export const trustOperations: readonly Operation[] = [
  operation(listTrusts, {
    summary: 'list the issuers that are trusted, and for what',
    action: 'account:manage',
    rest: { method: 'GET', path: '/v1/trusts' },
    cli: {
      words: 'trust list',
      columns: ['id', 'issuer', 'audience', 'claims', 'actions', 'repositories', 'roles', 'description'],
    },
    run: async (_input, _call, ctx) => ({ trusts: (await allTrusts(ctx.metadata.read)).map(toMessage) }),
  }),
  operation(createTrust, {
    summary: 'trust ID tokens of an issuer for an audience, where their claims fit',
    action: 'account:manage',
    rest: { method: 'POST', path: '/v1/trusts', status: 201 },
    cli: { words: 'trust create' },
    async run(input, call, ctx) {
      const roles = checkRoles(input.roles)
      mayGive(call, roles)
      if (!/^https:\/\/[^\s?#]+$|^http:\/\/(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(\/[^\s?#]*)?$/.test(input.issuer))
        throw invalid('issuer', 'an https address, exactly as the tokens name it')
      if (parseWords('audience', input.audience, 300) === '')
        throw invalid('audience', 'whom the tokens are for: something that only tokens for this registry have')
      if (input.claims.length === 0 || input.claims.length > 32)
        throw invalid('claims', 'at least one name=value: an issuer has other customers')
      for (const claim of input.claims)
        if (!/^[^=\s]{1,100}=.{1,300}$/.test(claim))
          throw invalid('claims', 'name=value, such as repository=team/app or ref=refs/tags/*')
      if (input.actions.length === 0 && roles.length === 0) throw invalid('actions', 'what they may do: actions, or roles')
      const grant = { effect: 'allow' as const, actions: input.actions, repositories: input.repositories }
      const rule =
        input.actions.length === 0
          ? undefined
          : checkRule({
              ...grant,
              priority: 100,
              description: '',
              roles: [],
              accountTypes: [],
              subject: 'x',
              tags: [],
              networks: [],
              except: { repositories: [], tags: [], networks: [] },
              message: '',
            })
      const trust = await change(ctx, call, async (sql, append) => {
        if (rule && !call.principal.roles.includes('admin')) {
          const enabled = (await allRules(sql)).filter((stored) => stored.enabled).map((stored) => stored.rule)
          const missing = beyond(rule, holdingsOf([...ctx.rules.builtIn, ...enabled], call.principal, ctx.now()))
          if (missing !== undefined)
            throw ociError('DENIED', undefined, { message: `nobody grants what they do not hold: ${missing}` })
        }
        const [row] = await sql.all<{ id: number }>(
          `INSERT INTO trusts(description, issuer, audience, claims, roles, actions, repositories, created_at) VALUES (?,?,?,?,?,?,?,?) RETURNING id`,
          [
            parseWords('description', input.description),
            input.issuer,
            input.audience,
            JSON.stringify(input.claims),
            JSON.stringify(roles),
            JSON.stringify(rule?.actions ?? []),
            JSON.stringify(rule?.repositories ?? []),
            ctx.now(),
          ],
        )
        const id = row?.id ?? 0
        append({ type: 'trust_added', detail: { id, issuer: input.issuer, audience: input.audience } })
        return (await allTrusts(sql)).find((entry) => entry.id === id) as Trust
      })
      return { trust: toMessage(trust) }
    },
  }),
  operation(deleteTrust, {
    summary: 'stop trusting; what was exchanged by it is refused from now on',
    action: 'account:manage',
    rest: { method: 'DELETE', path: '/v1/trusts/:id', status: 204 },
    cli: { words: 'trust delete', args: ['id'] },
    async run({ id }, call, ctx) {
      await change(ctx, call, async (sql, append) => {
        const trust = (await allTrusts(sql)).find((entry) => entry.id === Number(id))
        if (!trust) throw ociError('NOT_FOUND', undefined, { message: `there is no trust ${id}` })
        mayGive(call, trust.roles)
        await sql.run(`DELETE FROM trusts WHERE id = ?`, [trust.id])
        await sql.run(
          `DELETE FROM credentials WHERE account_id IN (SELECT id FROM accounts WHERE source = 'oidc' AND substr(subject, 1, ?) = ?)`,
          [trust.issuer.length + 6, `oidc:${trust.issuer}:`],
        )
        append({ type: 'trust_deleted', detail: { id: trust.id, issuer: trust.issuer, audience: trust.audience } })
      })
      return {}
    },
  }),
  operation(exchangeToken, {
    summary: 'exchange an ID token of a trusted issuer for a personal token of an hour at most',
    action: 'public',
    rest: { method: 'POST', path: '/v1/auth/exchange' },
    cli: { words: 'exchange', args: ['id_token'] },
    async run(input, { exchange }, ctx) {
      if (input.code !== '') {
        const account = await accountOfCode(ctx, input.code, input.codeVerifier)
        if (!account)
          throw ociError('UNAUTHORIZED', undefined, { message: 'the code is wrong, was used, or took longer than a minute' })
        exchange.principal = account.subject
        return { ...(await addLogin(ctx, exchange, account)), subject: account.subject }
      }
      if (input.idToken.length > 16_384) throw invalid('id_token', 'an ID token')
      const identity = await ctx.trusts.identify(input.idToken)
      if (!identity) {
        ctx.note({ type: 'token_refused', actor: 'anonymous', address: exchange.address })
        throw ociError('UNAUTHORIZED', undefined, {
          message: 'no trust fits this ID token: issuer, audience and claims must, and it must be valid now',
        })
      }
      exchange.principal = identity.subject
      const { secret, hash } = await prepareSecret('personal')
      const now = ctx.now()
      const expiresAt = Math.min(now + exchangedMs, Math.max(identity.expiresAt, now + 60_000))
      await change(ctx, { principal: identity, exchange }, async (sql, append) => {
        const accountId = await addTrusted(sql, identity, now)
        await sql.run(`DELETE FROM credentials WHERE account_id = ? AND expires_at < ?`, [accountId, now])
        const name = `trust ${identity.trust.id}`
        const id = await addCredential(sql, {
          accountId,
          kind: 'personal',
          name,
          hash,
          scope: grantOf(identity).scope,
          expiresAt,
          now,
        })
        append({ type: 'credential_added', detail: { subject: identity.subject, id, kind: 'personal', name } })
      })
      return { token: secret, expiresAt: stamp(expiresAt), subject: identity.subject }
    },
  }),
]

function toMessage(trust: Trust): MessageInitShape<typeof TrustSchema> {
  return {
    id: BigInt(trust.id),
    description: trust.description,
    issuer: trust.issuer,
    audience: trust.audience,
    claims: [...trust.claims],
    roles: [...trust.roles],
    actions: [...trust.actions],
    repositories: [...trust.repositories],
    createdAt: stamp(trust.createdAt),
  }
}
