import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Code, ConnectError, createClient, type Transport } from '@connectrpc/connect'
import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-node'
import * as grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { AdminService } from '../../lib/admin/gen/mcr/v1/admin_pb.ts'
import { AuditService } from '../../lib/admin/gen/mcr/v1/audit_pb.ts'
import { operations } from '../../lib/admin/operations.ts'
import { freePort } from '../support/ports.ts'
import { makeCertificate, password, startRegistry } from '../support/process.ts'

const { cert, key } = makeCertificate(mkdtempSync(join(tmpdir(), 'mcr-rpc-')))
const secure = await startRegistry({ tls: { cert, key } })
const grpcPort = await freePort()
const plain = await startRegistry({ env: { MCR_SERVER_GRPC_ADDR: `127.0.0.1:${grpcPort}` } })
after(async () => {
  await secure.remove()
  await plain.remove()
})
const authorization = `Basic ${btoa(`admin:${password}`)}`

const files = readdirSync('lib/admin/proto/mcr/v1').map((name) => `mcr/v1/${name}`)
const definition = loadSync(files, { includeDirs: ['lib/admin/proto'], keepCase: true, longs: Number, defaults: true })
// biome-ignore lint/suspicious/noExplicitAny: grpc-js builds its clients from the protos as it runs
const services = (grpc.loadPackageDefinition(definition) as any).mcr.v1

const endpoints = {
  'the TLS port': [secure.host, grpc.credentials.createSsl(readFileSync(cert))] as const,
  'a port of its own on plain HTTP': [`127.0.0.1:${grpcPort}`, grpc.credentials.createInsecure()] as const,
}

interface Answer {
  error?: grpc.ServiceError
  answer?: Record<string, never>
}
const unary = async (
  service: string,
  method: string,
  input: object,
  where: keyof typeof endpoints,
  header: string | undefined = authorization,
): Promise<Answer> => {
  const [address, credentials] = endpoints[where]
  const client = new services[service](address, credentials)
  const metadata = new grpc.Metadata()
  if (header) metadata.set('authorization', header)
  return await new Promise((resolve) =>
    client[method](input, metadata, (error: grpc.ServiceError | null, answer: Record<string, never>) => {
      client.close()
      resolve(error ? { error } : { answer })
    }),
  )
}

for (const where of Object.keys(endpoints) as (keyof typeof endpoints)[]) {
  test(`grpc-js on ${where}: health is open, everything else asks who calls, and refusals have their codes`, async () => {
    assert.equal((await unary('AdminService', 'Health', {}, where, undefined)).answer?.status, 'ok')
    assert.equal((await unary('AdminService', 'GetStatus', {}, where, '')).error?.code, grpc.status.UNAUTHENTICATED)
    assert.equal((await unary('AdminService', 'GetStatus', {}, where, 'Basic eDp5')).error?.code, grpc.status.UNAUTHENTICATED)
    assert.match(String((await unary('AdminService', 'GetStatus', {}, where)).answer?.instance), /^mcr-/)
    assert.equal((await unary('PolicyService', 'GetRule', { id: 99 }, where)).error?.code, grpc.status.NOT_FOUND)
    const wrong = (await unary('PolicyService', 'CreateRule', { effect: 'maybe', actions: ['registry:pull'] }, where)).error
    assert.equal(wrong?.code, grpc.status.INVALID_ARGUMENT)
    assert.match(String(wrong?.details), /effect(:|%3A) allow or deny/)
    const made = (await unary('AdminService', 'CreateAccount', { name: `rpc-${where.length}`, password: 'long enough' }, where))
      .answer
    assert.equal((made as { account: { account_type: string } } | undefined)?.account.account_type, 'human')
    const user = `Basic ${btoa(`rpc-${where.length}:long enough`)}`
    assert.equal((await unary('AdminService', 'ListAccounts', {}, where, user)).error?.code, grpc.status.PERMISSION_DENIED)
  })

  test(`grpc-js on ${where}: a stream follows the journal until it is cancelled`, async () => {
    const [address, credentials] = endpoints[where]
    const client = new services.AuditService(address, credentials)
    const metadata = new grpc.Metadata()
    metadata.set('authorization', authorization)
    const stream = client.StreamEvents({ event_type: 'account_added', follow: true }, metadata)
    const seen: string[] = []
    stream.on('error', () => undefined)
    const two = new Promise<void>((resolve) =>
      stream.on('data', ({ event }: { event: { details: string } }) => {
        seen.push((JSON.parse(event.details) as { name: string }).name)
        if (seen.includes(`late-${where.length}`)) resolve()
      }),
    )
    await unary('AdminService', 'CreateAccount', { name: `late-${where.length}`, password: 'long enough' }, where)
    await two
    stream.cancel()
    client.close()
  })
}

test('there is no reflection, and no method beside the operations', async () => {
  const [address, credentials] = endpoints['the TLS port']
  const client = new grpc.Client(address, credentials)
  for (const path of [
    '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
    '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
    '/mcr.v1.AdminService/DropEverything',
  ]) {
    const code = await new Promise((resolve) =>
      client.makeUnaryRequest(
        path,
        () => Buffer.alloc(0),
        (bytes) => bytes,
        Buffer.alloc(0),
        (error) => resolve(error?.code),
      ),
    )
    assert.ok(code === grpc.status.UNIMPLEMENTED || code === grpc.status.NOT_FOUND, `${path}: ${code}`)
  }
  client.close()
})

test('every operation is a method that grpc-js finds in the protos', () => {
  for (const { method } of operations) assert.ok(services[method.parent.name].service[method.name], method.name)
})

const interceptor = (next: (request: never) => never) => (request: { header: Headers }) => {
  request.header.set('authorization', authorization)
  return next(request as never)
}
const interceptors = [interceptor as never]
const transports: Record<string, () => Transport> = {
  'Connect over HTTP/1.1': () => createConnectTransport({ baseUrl: plain.url, httpVersion: '1.1', interceptors }),
  'gRPC-Web over HTTP/1.1': () => createGrpcWebTransport({ baseUrl: plain.url, httpVersion: '1.1', interceptors }),
  'Connect over HTTP/2': () =>
    createConnectTransport({ baseUrl: secure.url, httpVersion: '2', interceptors, nodeOptions: { ca: readFileSync(cert) } }),
  'gRPC-Web over HTTP/2': () =>
    createGrpcWebTransport({ baseUrl: secure.url, httpVersion: '2', interceptors, nodeOptions: { ca: readFileSync(cert) } }),
}
for (const [name, make] of Object.entries(transports))
  test(`${name}: answers, streams and refusals`, async () => {
    const admin = createClient(AdminService, make())
    assert.equal((await admin.health({})).status, 'ok')
    assert.equal((await admin.whoAmI({})).name, 'admin')
    const error = await admin.getAccount({ account: 'nobody' }).then(
      () => undefined,
      (failure) => ConnectError.from(failure),
    )
    assert.equal(error?.code, Code.NotFound)
    const types: string[] = []
    for await (const { event } of createClient(AuditService, make()).streamEvents({})) types.push(event?.eventType ?? '')
    assert.ok(types.length > 0)
  })

test('the port of gRPC speaks Connect over HTTP/2 as well', async () => {
  const transport = createConnectTransport({ baseUrl: `http://127.0.0.1:${grpcPort}`, httpVersion: '2', interceptors })
  assert.equal((await createClient(AdminService, transport).health({})).status, 'ok')
})
