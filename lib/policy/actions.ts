/** Everything that can be allowed or refused. The first six are the classic ones; `overwrite` is implied by push and can be denied. */
export const actions = [
  'registry:version_check',
  'registry:pull',
  'registry:push',
  'registry:delete',
  'registry:catalog',
  'policy:manage',
  'registry:overwrite',
  'repository:manage',
  'account:manage',
  'audit:read',
  'gc:run',
  'system:read',
  'system:manage',
] as const
export type Action = (typeof actions)[number]
