import { restEndpoints } from '../../lib/admin/rest.ts'
import { robotOperations } from '../../lib/admin/robots.ts'
import { tokenOperations } from '../../lib/admin/tokens.ts'
import { handler } from '../../lib/http/mount.ts'

/** Personal tokens and robots. */
export default handler(...restEndpoints([...tokenOperations, ...robotOperations]))
