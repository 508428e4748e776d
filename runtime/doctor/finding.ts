/** Something that is wrong, or (`note`) that could not be looked at or is only worth knowing. */
export interface Finding {
  /** A word for scripts, such as `body-cap`. */
  what: string
  severity: 'wrong' | 'note'
  says: string
  /** The line to change, by whose configuration it is in. */
  cures: { nginx?: string; caddy?: string; mcr?: string }
}

export type Find = (finding: Finding) => void

/** Findings as a person reads them. */
export function formatFindings(findings: readonly Finding[]): string {
  return findings
    .map(({ severity, what, says, cures }) =>
      [
        `${severity === 'wrong' ? 'WRONG' : 'note'} ${what}: ${says}`,
        ...(cures.nginx ? [`  nginx: ${cures.nginx}`] : []),
        ...(cures.caddy ? [`  Caddy: ${cures.caddy}`] : []),
        ...(cures.mcr ? [`  MCR: ${cures.mcr}`] : []),
      ].join('\n'),
    )
    .map((text) => `${text}\n`)
    .join('')
}
