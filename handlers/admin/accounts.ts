import { accountOperations } from '../../lib/admin/accounts.ts'
import { restEndpoints } from '../../lib/admin/rest.ts'
import { roleOperations } from '../../lib/admin/roles.ts'
import { handler } from '../../lib/http/mount.ts'

/** Accounts and their roles. */
export default handler(...restEndpoints([...accountOperations, ...roleOperations]))
