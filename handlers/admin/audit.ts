import { auditOperations } from '../../lib/admin/audit.ts'
import { restEndpoints } from '../../lib/admin/rest.ts'
import { handler } from '../../lib/http/mount.ts'

/** The journal. */
export default handler(...restEndpoints(auditOperations))
