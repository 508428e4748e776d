import type { Rule } from '../policy/rule.ts'
import { parseRule } from '../policy/rule.ts'
import type { Sql } from './sql.ts'

/** A rule with what its row keeps beside it. */
export interface StoredRule {
  readonly rule: Rule
  readonly enabled: boolean
  /** name and row of the robot it belongs to */
  readonly managedBy: string | null
  readonly createdAt: number
  readonly updatedAt: number
}

interface RuleRow {
  id: number
  priority: number
  description: string
  rule: string
  enabled: number
  managedBy: string | null
  createdAt: number
  updatedAt: number
}

const select = `SELECT p.id, p.priority, p.description, p.rule, p.enabled, a.name AS managedBy,
  p.created_at AS createdAt, p.updated_at AS updatedAt FROM policy_rules p LEFT JOIN accounts a ON a.id = p.managed_by`

const toStored = (row: RuleRow): StoredRule => ({
  rule: parseRule(row),
  enabled: row.enabled !== 0,
  managedBy: row.managedBy,
  createdAt: row.createdAt,
  updatedAt: row.updatedAt,
})

/** Rules by id, after `after`. */
export async function listRules(sql: Sql, page: { limit: number; after: number; offset: number }): Promise<StoredRule[]> {
  const rows = await sql.all<RuleRow>(`${select} WHERE p.id > ? ORDER BY p.id LIMIT ? OFFSET ?`, [
    page.after,
    page.limit,
    page.offset,
  ])
  return rows.map(toStored)
}

/** Every rule, in the order they are looked at. */
export async function allRules(sql: Sql): Promise<StoredRule[]> {
  const rows = await sql.all<RuleRow>(`${select} ORDER BY p.priority, p.id`)
  return rows.map(toStored)
}

export async function findRule(sql: Sql, id: number): Promise<StoredRule | undefined> {
  const [row] = await sql.all<RuleRow>(`${select} WHERE p.id = ?`, [id])
  return row && toStored(row)
}

/** Shape: the new rule's id. */
export async function addRule(
  sql: Sql,
  rule: Omit<Rule, 'id'>,
  enabled: boolean,
  now: number,
  managedBy: number | null = null,
): Promise<number> {
  const [row] = await sql.all<{ id: number }>(
    `INSERT INTO policy_rules(priority, description, rule, enabled, managed_by, created_at, updated_at) VALUES (?,?,?,?,?,?,?) RETURNING id`,
    [rule.priority, rule.description, formatRule(rule), enabled, managedBy, now, now],
  )
  return (row as { id: number }).id
}

export async function setRule(sql: Sql, id: number, rule: Omit<Rule, 'id'>, enabled: boolean, now: number): Promise<void> {
  await sql.run(`UPDATE policy_rules SET priority = ?, description = ?, rule = ?, enabled = ?, updated_at = ? WHERE id = ?`, [
    rule.priority,
    rule.description,
    formatRule(rule),
    enabled,
    now,
    id,
  ])
}

export async function removeRule(sql: Sql, id: number): Promise<void> {
  await sql.run(`DELETE FROM policy_rules WHERE id = ?`, [id])
}

/** The rule as its row keeps it, with the original's names; empty fields are left out. */
export function formatRule(rule: Omit<Rule, 'id'>): string {
  const filled = <T extends readonly string[]>(list: T) => (list.length > 0 ? list : undefined)
  const { repositories, tags, networks } = rule.except
  const except = { repositories: filled(repositories), tags: filled(tags), networks: filled(networks) }
  return JSON.stringify({
    effect: rule.effect,
    roles: filled(rule.roles),
    account_types: filled(rule.accountTypes),
    subject_uuid: rule.subject,
    actions: rule.actions,
    repositories: filled(rule.repositories),
    tags: filled(rule.tags),
    networks: filled(rule.networks),
    except: Object.values(except).some(Boolean) ? except : undefined,
    expires_at: rule.expiresAt,
    message: rule.message,
  })
}
