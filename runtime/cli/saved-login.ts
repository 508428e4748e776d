import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

/** What `mcr login` keeps. */
export interface SavedLogin {
  server: string
  token: string
  expires_at?: string
  ca_cert?: string
}

/** Where it is kept: 0600, in the user's configuration. */
export const savedLoginPath = (env: NodeJS.ProcessEnv = process.env): string =>
  join(env.XDG_CONFIG_HOME || join(homedir(), '.config'), 'mcr', 'login.json')

/** The saved login, or undefined. Errors: a plain Error where the file is there and cannot be read. */
export function readSavedLogin(path = savedLoginPath()): SavedLogin | undefined {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  const login = JSON.parse(text) as SavedLogin
  if (typeof login.server !== 'string' || typeof login.token !== 'string')
    throw new Error(`${path} is no login: mcr logout removes it`)
  return login
}

export function saveLogin(login: SavedLogin, path = savedLoginPath()): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const temporary = `${path}.${process.pid}`
  writeFileSync(temporary, `${JSON.stringify(login, null, 2)}\n`, { mode: 0o600 })
  chmodSync(temporary, 0o600)
  renameSync(temporary, path)
}

export function forgetLogin(path = savedLoginPath()): void {
  rmSync(path, { force: true })
}
