import { restEndpoints } from '../../lib/admin/rest.ts'
import { systemOperations } from '../../lib/admin/system.ts'
import { handler } from '../../lib/http/mount.ts'

/** How the registry is: health, status. */
export default handler(...restEndpoints(systemOperations))
