import { garbageOperations } from '../../lib/admin/garbage.ts'
import { restEndpoints } from '../../lib/admin/rest.ts'
import { handler } from '../../lib/http/mount.ts'

/** Garbage collection: asked for here, run by a job. */
export default handler(...restEndpoints(garbageOperations))
