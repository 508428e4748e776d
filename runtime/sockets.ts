import { chmodSync, existsSync, lstatSync, rmSync } from 'node:fs'
import * as net from 'node:net'
import { dirname } from 'node:path'
import { getSystemErrorMessage, getSystemErrorName } from 'node:util'
import { parseListen } from './addresses.ts'

/** A listening socket that whoever started this process holds and hands it: its descriptor, and what it is for. */
export interface InheritedSocket {
  fd: number
  /** `grpc` and `admin` are those listeners; every other name is the registry. */
  name: string
}

const firstFd = 3

/** Which listener a handed socket is: those that are named so, else the registry's. */
export function listenerOf(name: string): 'registry' | 'grpc' | 'admin' {
  return name === 'grpc' || name === 'admin' ? name : 'registry'
}

/**
 * The sockets of the environment, as systemd hands them and as a parent hands them to its workers. `LISTEN_PID` guards against variables
 * that were meant for another process; a worker is known by its parent's channel instead, for a parent learns a child's number too late.
 * Source: sd_listen_fds(3). Errors: a plain Error where the variables make no sense.
 */
export function inheritedSockets(
  env: Readonly<Record<string, string | undefined>>,
  self: { pid: number; isWorker?: true },
): readonly InheritedSocket[] {
  if (env.LISTEN_FDS === undefined || (!self.isWorker && Number(env.LISTEN_PID) !== self.pid)) return []
  const count = Number(env.LISTEN_FDS)
  if (!Number.isInteger(count) || count < 0 || count > 64)
    throw new Error(`$LISTEN_FDS is ${env.LISTEN_FDS}, no count of sockets`)
  const names = env.LISTEN_FDNAMES?.split(':') ?? []
  return Array.from({ length: count }, (_, index) => ({ fd: firstFd + index, name: names[index] ?? '' }))
}

/** The environment that hands sockets to a worker, which gets them as its descriptors 3 and on. */
export function handingOn(sockets: readonly InheritedSocket[]): Record<string, string> {
  return { LISTEN_FDS: String(sockets.length), LISTEN_FDNAMES: sockets.map(({ name }) => name).join(':') }
}

/** A bound socket that this process holds and never accepts from. */
export interface HeldSocket extends InheritedSocket {
  close(): void
}

interface Handle {
  fd: number
  close(): void
  getsockname?(out: { port?: number }): number
}

/**
 * Binds an address (`host:port`, or `unix:` and a path) without accepting: for others to serve. Node has no public function that makes a
 * socket without serving it; this one is what its own cluster module uses.
 * Errors: a plain Error where the address cannot be had.
 */
export async function holdSocket(listen: string, name: string): Promise<HeldSocket> {
  const create = (net as unknown as { _createServerHandle?: (...args: unknown[]) => Handle | number })._createServerHandle
  if (!create) throw new Error(`Node ${process.version} cannot hold a socket for workers: unset server.workers`)
  const handle = listen.startsWith('unix:') ? await bindPath(create, listen.slice(5)) : await bindAddress(create, listen)
  if (typeof handle === 'number')
    throw new Error(`cannot listen on ${listen}: ${getSystemErrorName(handle)}, ${getSystemErrorMessage(handle)}`)
  return { fd: handle.fd, name, close: () => handle.close() }
}

type Create = (...args: unknown[]) => Handle | number
const addressInUse = -98

async function bindAddress(create: Create, listen: string): Promise<Handle | number> {
  const { host, port } = parseListen(listen)
  const { address, family } = await process.getBuiltinModule('node:dns/promises').lookup(host)
  const handle = create(address, port, family, undefined, 0)
  if (typeof handle === 'number') return handle
  // That a port is taken is said only when somebody listens; until then the socket has another port or none.
  const bound: { port?: number } = {}
  handle.getsockname?.(bound)
  if (bound.port && (port === 0 || bound.port === port)) return handle
  handle.close()
  return addressInUse
}

/** A socket file whose process has died is in the way and nobody's: it goes. */
async function bindPath(create: Create, path: string): Promise<Handle | number> {
  await refuseTaken(path)
  rmSync(path, { force: true })
  const handle = create(path, -1, -1, undefined, 0)
  // Its rights say who may be the proxy in front.
  if (typeof handle !== 'number') chmodSync(path, 0o660)
  return handle
}

/** What sockaddr_un holds, less what a temporary name adds. */
const socketPathMost = 95

/** Errors: a plain Error where something answers at `path`, where it is no socket, and where there can be none. */
export async function refuseTaken(path: string): Promise<void> {
  if (Buffer.byteLength(path) > socketPathMost)
    throw new Error(`the path of a socket has ${socketPathMost} bytes at most: choose a shorter one than ${path}`)
  // The platform calls that a lack of permission.
  if (!existsSync(dirname(path))) throw new Error(`there is no directory ${dirname(path)} for the socket ${path}: make it first`)
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (!found) return
  if (!found.isSocket()) throw new Error(`${path} is there and is no socket: remove it, or listen elsewhere`)
  const answers = await new Promise<boolean>((resolve, reject) => {
    const socket = net.connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNREFUSED' || error.code === 'ENOENT' ? resolve(false) : reject(error),
    )
  })
  if (answers) throw new Error(`another process listens on ${path}: end it first, or listen elsewhere`)
}
