import type { Server } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import { Server as NetServer, type Socket } from 'node:net'
import type { AnyServer } from './listeners.ts'

/** A connection of HTTP/1.1: requests that run on it, and since when there are none. */
export interface Use {
  active: number
  since: number
}

export interface Connections {
  /** Every TCP or unix connection, also one whose handshake is under way. */
  sockets: Set<Socket>
  uses: Map<Socket, Use>
  sessions: Set<ServerHttp2Session>
  /** Connections beyond the bounds: they get a 503 and are closed. */
  turnedAway: Set<Socket>
}

/** NO_ERROR, and the last stream id there is: a GOAWAY that refuses nothing yet.  Source: RFC 9113 §7, §6.8. */
const noError = 0
const lastStream = 2 ** 31 - 1

/**
 * Stops accepting, lets what runs end for up to `ms`, and closes what is left.
 * With `lingerMs`, for where another process serves the same address: a connection is closed only when nothing was asked on it for so
 * long, and until then its next answer says `Connection: close` (HTTP/2: a GOAWAY that refuses nothing comes first). Closed at once, it
 * might meet a request that is already on its way, and few clients dare to send a POST again.  Source: RFC 9112 §9.6, RFC 9113 §6.8.
 */
export async function drainServers(
  servers: readonly AnyServer[],
  { sockets, uses, sessions }: Connections,
  active: () => number,
  ms: number,
  lingerMs: number,
): Promise<void> {
  const begun = Date.now()
  // The servers' own close() also closes idle connections at once; this one only stops listening.
  for (const server of servers) NetServer.prototype.close.call(server)
  for (const session of sessions) if (lingerMs > 0 && !session.destroyed) session.goaway(noError, lastStream)
  let closing = false
  for (;;) {
    const now = Date.now()
    if (now - begun >= ms) break
    for (const [socket, use] of uses) if (use.active === 0 && now - use.since >= lingerMs) socket.destroySoon()
    if (!closing && now - begun >= lingerMs) {
      closing = true
      for (const session of sessions) session.close()
    }
    // What is neither in use nor a session is a handshake that was never finished.
    if (closing && active() === 0 && uses.size === 0 && sessions.size === 0) break
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  for (const session of sessions) session.destroy()
  for (const socket of sockets) socket.destroy()
  for (const server of servers) (server as Server).close()
}
