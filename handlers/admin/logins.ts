import { loginOperations } from '../../lib/admin/logins.ts'
import { restEndpoints } from '../../lib/admin/rest.ts'
import { handler } from '../../lib/http/mount.ts'

/** Logging in to the administration, and out. */
export default handler(...restEndpoints(loginOperations))
