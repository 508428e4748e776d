import { restEndpoints } from '../../lib/admin/rest.ts'
import { keyOperations } from '../../lib/admin/system.ts'
import { handler } from '../../lib/http/mount.ts'

/** The keys that sign registry tokens: apart, because only where they are used is the key that opens them. */
export default handler(...restEndpoints(keyOperations))
