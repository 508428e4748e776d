/** Everything that can happen to a registry. The names are stable: audit filters, webhooks and scripts use them. */
export type RegistryEvent =
  | { type: 'blob_uploaded' | 'blob_deleted'; repository: string; digest: string; detail?: { size: number } }
  | { type: 'blob_mounted'; repository: string; digest: string; detail: { from: string } }
  | { type: 'manifest_pushed'; repository: string; digest: string; detail: { mediaType: string; size: number; tags: string[] } }
  | { type: 'manifest_deleted'; repository: string; digest: string; detail: { tags: string[] } }
  | { type: 'tag_deleted'; repository: string; digest: string; tag: string }
  | { type: 'tag_moved'; repository: string; digest: string; tag: string; detail: { from: string | null } }
  | { type: 'account_added' | 'account_changed'; detail: { subject: string; roles?: string[]; what?: string } }
