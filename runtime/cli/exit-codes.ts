/** Codes a script can rely on. */
export const exitCodes = {
  ok: 0,
  failure: 1,
  usage: 2,
  refused: 3,
  notFound: 4,
  conflict: 5,
  unavailable: 6,
  /** what is stored is damaged, or a backup of it */
  damaged: 7,
  /** the doctor found something wrong */
  found: 8,
} as const
