import { chmodSync, readFileSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestRegistry } from './registry.ts'

/** The stored file of a digest: that of its row, beside which dead copies may wait for their end. */
export async function fileOf({ root, database }: Pick<TestRegistry, 'root' | 'database'>, digest: string): Promise<string> {
  const [row] = await database.read.all<{ inc: string }>(`SELECT inc FROM blobs WHERE digest = ?`, [digest])
  const [algorithm, hex] = digest.split(':') as [string, string]
  return join(root, 'blobs', algorithm, hex.slice(0, 2), `${hex}.${row?.inc}`)
}

/** What disks and people do to files. */
export const damages: Readonly<Record<'flipped' | 'truncated' | 'zeroed' | 'emptied' | 'deleted', (path: string) => void>> = {
  flipped: (path) => rewrite(path, (bytes) => bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1)),
  truncated: (path) => {
    chmodSync(path, 0o600)
    truncateSync(path, readFileSync(path).length - 1)
  },
  zeroed: (path) => rewrite(path, (bytes) => bytes.fill(0)),
  emptied: (path) => {
    chmodSync(path, 0o600)
    truncateSync(path, 0)
  },
  deleted: (path) => unlinkSync(path),
}

function rewrite(path: string, change: (bytes: Buffer) => void): void {
  const bytes = readFileSync(path)
  change(bytes)
  chmodSync(path, 0o600)
  writeFileSync(path, bytes)
}

export interface VerifyFinding {
  severity: string
  what: string
  digest: string
  repositories: string[]
  subject: string
  says: string
  hint: string
}
interface VerifyLine {
  kind: string
  finding?: VerifyFinding
  result?: Record<string, number> & { ok: boolean }
}

/** A verification by REST. Shape: its findings and its last line. */
export async function verify(
  registry: Pick<TestRegistry, 'fetch'>,
  deep = false,
): Promise<{ findings: VerifyFinding[]; result: NonNullable<VerifyLine['result']> }> {
  const response = await registry.fetch('POST', '/v1/storage/verify', {
    body: JSON.stringify({ deep }),
    headers: { 'content-type': 'application/json' },
  })
  const text = await response.text()
  if (response.status !== 200) throw new Error(`verify: ${response.status} ${text}`)
  const lines = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as VerifyLine)
  const result = lines.at(-1)?.result
  if (!result) throw new Error(`verify did not end: ${text}`)
  return { findings: lines.flatMap(({ finding }) => (finding ? [finding] : [])), result }
}
