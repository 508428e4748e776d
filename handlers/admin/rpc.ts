import { operations } from '../../lib/admin/operations.ts'
import { rpcHandler } from '../../lib/admin/rpc-fetch.ts'

/** `mcr.v1` over Connect and gRPC-Web. gRPC itself needs trailers, which fetch has not: the runtime mounts the same operations for it. */
export default rpcHandler(operations)
