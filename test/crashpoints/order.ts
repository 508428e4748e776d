import { join } from 'node:path'
import type { Fleet } from '../workload/fleet.ts'
import type { Finding } from '../workload/push-blob.ts'
import { bytesNamed, sha256 } from '../workload/random.ts'
import { attach, type Call, readTrace } from './strace.ts'

/**
 * The order that makes an answer durable, as the kernel saw it for one push: file synced, then renamed, then its directory synced, then the
 * database's log, and only then 201. Shape: what was seen, in words.
 */
export async function checkOrder(fleet: Fleet, folder: string, finding: Finding): Promise<string> {
  const member = fleet.members[0]
  const file = join(folder, 'order.strace')
  const bytes = bytesNamed('order', 70_000)
  const digest = sha256(bytes)
  const names = 'write,writev,sendto,sendmsg,pwrite64,pwritev,fsync,fdatasync,rename'
  const trace = await attach(member?.child?.pid as number, ['-y', '-s', '400', '-o', file, '-e', `trace=${names}`])
  const answer = await fleet.probe('POST', `/v2/order/app/blobs/uploads/?digest=${digest}`, { body: bytes, of: member })
  await trace.end('alive')
  if (answer.status !== 201) finding(`the push whose order is looked at was answered ${answer.status} ${answer.body}`)

  const hex = digest.slice(7)
  const calls = readTrace(file)
  const steps: [what: string, is: (call: Call) => boolean][] = [
    ['fsync(segment)', ({ name, text }) => /^f(data)?sync$/.test(name) && /\/uploads\/[^>]+>/.test(text)],
    ['rename', ({ name, text }) => name === 'rename' && text.includes(`/${hex}.`)],
    ['fsync(directory)', ({ name, text }) => name === 'fsync' && text.includes(`/sha256/${hex.slice(0, 2)}>`)],
    ['fsync(log)', ({ name, text }) => /^f(data)?sync$/.test(name) && text.includes('-wal>')],
    ['201', ({ text }) => text.includes('HTTP/1.1 201')],
  ]
  let after = -1
  for (const [what, is] of steps) {
    const call = calls.find((entry) => entry.began > after && is(entry))
    if (!call || !Number.isFinite(call.ended)) {
      finding(`the order of a push: no ${what} after what must come before it`)
      return `broken at ${what}`
    }
    after = call.ended
  }
  return steps.map(([what]) => what).join(' < ')
}
