/** Everything that can happen to a registry. The names are stable: audit filters, webhooks and scripts use them. */
export type RegistryEvent =
  | { type: 'blob_uploaded' | 'blob_deleted'; repository: string; digest: string; detail?: { size: number } }
  | {
      type: 'blob_damaged'
      digest: string
      detail: { incarnation: string; size: number; found: string; repositories: readonly string[] }
    }
  | { type: 'blob_healed'; digest: string; detail: { incarnation: string } }
  | { type: 'blob_mounted'; repository: string; digest: string; detail: { from: string } }
  | { type: 'manifest_pushed'; repository: string; digest: string; detail: { mediaType: string; size: number; tags: string[] } }
  | { type: 'manifest_deleted'; repository: string; digest: string; detail: { tags: string[] } }
  | { type: 'tag_deleted'; repository: string; digest: string; tag: string }
  | { type: 'tag_moved'; repository: string; digest: string; tag: string; detail: { from: string | null } }
  | { type: 'repository_deleted'; repository: string; detail: { tags: number; manifests: number } }
  | { type: 'repository_undeleted'; repository: string }
  | { type: 'manifest_undeleted'; repository: string; digest: string }
  | { type: 'account_added'; detail: { subject: string; name: string; roles: readonly string[] } }
  | { type: 'account_changed'; detail: { subject: string; what: 'password' | 'disabled' | 'enabled' } }
  | { type: 'account_deleted'; detail: { subject: string; name: string } }
  | { type: 'role_granted' | 'role_revoked'; detail: { subject: string; role: string } }
  | { type: 'credential_added' | 'credential_revoked'; detail: { subject: string; id: number; kind: string; name?: string } }
  | { type: 'robot_added' | 'robot_rotated'; detail: { subject: string; name: string } }
  | { type: 'rule_created' | 'rule_deleted'; detail: { id: number; rule: unknown; priority?: number } }
  | { type: 'rule_updated'; detail: { id: number; before: unknown; after: unknown; enabled: boolean } }
  | { type: 'rules_applied'; detail: { changes: readonly { id?: number; before?: unknown; after?: unknown }[] } }
  | { type: 'trust_added' | 'trust_deleted'; detail: { id: number; issuer: string; audience: string } }
  | { type: 'keys_rotated'; detail: { kid: string } }
  | { type: 'purged'; detail: { deleted: number; kept: number } }
  | { type: 'manifest_collected'; repository: string; digest: string; detail: { gc_id: string; why: string } }
  | { type: 'blobs_collected'; detail: { gc_id: string; digests: readonly string[] } }
  | { type: 'gc_paused' | 'gc_resumed' }
  | { type: 'gc_started' | 'gc_completed'; detail: { gc_id: string } & Record<string, unknown> }
  | { type: 'scrub_completed'; detail: { blobs: number; bytes: number; damaged: number; since: number } }
  | { type: 'rollback_accepted'; detail: { counted: number; noted: number } }
  | { type: 'snapshot_taken'; detail: { snapshot: string; files: number; bytes: number; damaged: number } }
  | { type: 'restored'; detail: { snapshot: string; made_at: number } }
  | { type: 'retention_applied'; detail: { dropped: number; removed: number; entries: string; until: number } }
