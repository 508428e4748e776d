import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Command } from 'commander'
import { AdminService } from '../../lib/admin/gen/mcr/v1/admin_pb.ts'
import { fromRest, toRest } from '../../lib/admin/json.ts'
import { loginOperations } from '../../lib/admin/logins.ts'
import type { Operation } from '../../lib/admin/operation.ts'
import { trustOperations } from '../../lib/admin/trusts.ts'
import { pkce } from '../../lib/auth/pkce.ts'
import { askSecret } from './ask.ts'
import { forgetLogin, readSavedLogin, savedLoginPath, saveLogin } from './saved-login.ts'
import { restTransport } from './transport.ts'

const find = (method: { name: string }): Operation =>
  loginOperations.find((operation) => operation.method.name === method.name) as Operation
const loginOperation = find(AdminService.method.login)
const logoutOperation = find(AdminService.method.logout)
const exchangeOperation = trustOperations.find(
  ({ method }) => method.name === AdminService.method.exchangeToken.name,
) as Operation

const waitMs = 5 * 60_000

/** Listens on loopback for the browser that comes back from the issuer. Shape: the code it brings, and the verifier that makes it ours. */
async function waitForBrowser(server: string): Promise<{ code: string; verifier: string }> {
  const { verifier, challenge } = await pkce()
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address() as AddressInfo
  console.log(
    `open in a browser on this machine:\n\n  ${server}/auth/oidc/sso/start?cli_port=${port}&cli_challenge=${challenge}\n`,
  )
  try {
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('nobody came back from the issuer within five minutes')), waitMs)
      listener.on('request', (request, response) => {
        const code = new URL(request.url ?? '/', 'http://127.0.0.1').searchParams.get('code')
        response.writeHead(code ? 200 : 404, { 'content-type': 'text/plain', connection: 'close' })
        response.end(code ? 'Logged in. You can close this page.\n' : 'Nothing here.\n')
        if (!code) return
        clearTimeout(timer)
        resolve({ code, verifier })
      })
    })
  } finally {
    listener.close()
  }
}

/** `mcr login` and `mcr logout`: a login of the administration, kept 0600. */
export function loginCommands(globals: () => { caCert?: string }): Command[] {
  const login = new Command('login')
    .description('log in to a registry and keep the login for 12 hours')
    .argument('<server>', 'its address, such as https://registry.example.com')
    .option('-u, --username <name>', 'who you are')
    .option('--password-stdin', 'read the password from standard input')
    .option('--token-stdin', 'keep this personal or robot token instead of a password login')
    .option('--issuer', 'log in through the issuer that the registry has, in a browser on this machine')
    .option('--totp <code>', 'code of the second factor, where the identity service wants one')
    .action(
      async (
        address: string,
        options: { username?: string; passwordStdin?: true; tokenStdin?: true; totp?: string; issuer?: true },
      ) => {
        const server = /^https?:\/\//.test(address) ? address : `https://${address}`
        const { caCert } = globals()
        if (options.tokenStdin) {
          const token = await askSecret('Token: ', { stdin: true, insteadOf: '' })
          saveLogin({ server, token: token.trim(), ca_cert: caCert })
        } else if (options.issuer) {
          const { code, verifier } = await waitForBrowser(server)
          const input = fromRest(exchangeOperation.method.input, { code, code_verifier: verifier })
          const message = await restTransport({ address: server, caCert }).call(exchangeOperation, input)
          const { token, expires_at: expires } = toRest(exchangeOperation.method.output, message)
          saveLogin({ server, token: String(token), expires_at: String(expires), ca_cert: caCert })
        } else {
          if (!options.username) throw new Error('who? --username <name>')
          const password = await askSecret('Password: ', { stdin: options.passwordStdin, insteadOf: 'use --password-stdin' })
          const input = fromRest(loginOperation.method.input, {
            username: options.username,
            password,
            totp_code: options.totp ?? '',
          })
          const { token, expires_at: expires } = toRest(
            loginOperation.method.output,
            await restTransport({ address: server, caCert }).call(loginOperation, input),
          )
          saveLogin({ server, token: String(token), expires_at: String(expires), ca_cert: caCert })
        }
        console.log(`logged in to ${server}; kept in ${savedLoginPath()}`)
      },
    )
  const logout = new Command('logout').description('end the login that is kept, here and on the server').action(async () => {
    const saved = readSavedLogin()
    if (!saved) {
      console.log('there is no login')
      return
    }
    forgetLogin()
    const transport = restTransport({ address: saved.server, token: saved.token, caCert: saved.ca_cert })
    await transport.call(logoutOperation, fromRest(logoutOperation.method.input, {}))
    console.log(`logged out of ${saved.server}`)
  })
  return [login, logout]
}
