import { connect } from 'node:net'

export interface RawAnswer {
  /** Status codes in the order they came; empty when the connection was closed without one. */
  statuses: number[]
  text: string
}

/** How long an answer may take to begin: a machine at work is slow, and silence is a finding. */
const patienceMs = 10_000

/** Sends bytes as they are and reads until the server closes, or nothing more comes for a while after the first bytes of an answer. */
export async function sendRaw(port: number, bytes: string | Uint8Array, quietMs = 300): Promise<RawAnswer> {
  return await new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1')
    let text = ''
    let timer: NodeJS.Timeout
    const done = () => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ text, statuses: [...text.matchAll(/HTTP\/1\.1 ([0-9]{3})/g)].map((match) => Number(match[1])) })
    }
    const wait = (ms: number) => {
      clearTimeout(timer)
      timer = setTimeout(done, ms)
    }
    socket.on('connect', () => {
      socket.write(bytes)
      wait(patienceMs)
    })
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
      wait(quietMs)
    })
    socket.on('close', done)
    socket.on('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNRESET' || error.code === 'EPIPE' ? done() : reject(error),
    )
  })
}
