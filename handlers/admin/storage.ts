import { restEndpoints } from '../../lib/admin/rest.ts'
import { storageOperations } from '../../lib/admin/storage.ts'
import { handler } from '../../lib/http/mount.ts'

/** Whether what is stored is whole. */
export default handler(...restEndpoints(storageOperations))
