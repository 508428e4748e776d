import { isLoopback } from '../addresses.ts'
import { examineAnonymously } from './anonymous.ts'
import { orLost, type Public } from './ask.ts'
import type { Finding } from './finding.ts'
import { examineGrpc } from './grpc.ts'
import { examineSigned } from './signed.ts'

/**
 * Looks at a registry as its clients meet it, through whatever stands in front. Shape: what was found, the wrong before the notes.
 * Errors: those of the connection, where not even the first request is answered.
 */
export async function examine(to: Public): Promise<Finding[]> {
  const findings: Finding[] = []
  // One cure is enough for one mistake; connections are lost for many.
  const find = (finding: Finding) => {
    if (!findings.some(({ what, says }) => what === finding.what && (what !== 'connection' || says === finding.says)))
      findings.push(finding)
  }
  await examineAnonymously(to, find)
  // Without a challenge nothing behind it is a registry's.
  const reached = !findings.some(({ what }) => what === 'challenge')
  if (reached) await orLost(examineGrpc(to, find), find)
  const isPrivate =
    to.url.protocol === 'https:' ? !findings.some(({ what }) => what === 'certificate') : isLoopback(to.url.hostname)
  if (reached && to.authorization !== undefined && !isPrivate)
    find({
      what: 'login',
      severity: 'note',
      says: 'the login was not sent, since somebody else might get it: no upload, no download and no stream was looked at',
      cures: { mcr: 'an https address, a certificate that is trusted here, or --ca-cert <its authority>' },
    })
  else if (reached && to.authorization !== undefined) await orLost(examineSigned(to, find), find)
  else if (reached)
    find({
      what: 'login',
      severity: 'note',
      says: 'without a login no upload, no download and no stream was looked at',
      cures: { mcr: 'mcr doctor <address> --user <name> or --token <personal or robot token>' },
    })
  return findings.toSorted((a, b) => Number(a.severity === 'note') - Number(b.severity === 'note'))
}
