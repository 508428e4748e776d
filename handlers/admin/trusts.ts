import { restEndpoints } from '../../lib/admin/rest.ts'
import { trustOperations } from '../../lib/admin/trusts.ts'
import { handler } from '../../lib/http/mount.ts'

/** Issuers whose ID tokens are exchanged. */
export default handler(...restEndpoints(trustOperations))
