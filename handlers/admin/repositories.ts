import { purgeOperations } from '../../lib/admin/purge.ts'
import { repositoryOperations } from '../../lib/admin/repositories.ts'
import { restEndpoints } from '../../lib/admin/rest.ts'
import { tagOperations } from '../../lib/admin/tags.ts'
import { undeleteOperations } from '../../lib/admin/undelete.ts'
import { usageOperations } from '../../lib/admin/usage.ts'
import { handler } from '../../lib/http/mount.ts'

/** Repositories, tags and manifests. What ends a name by `/-/` comes before what does not. */
export default handler(
  ...restEndpoints([...tagOperations, ...undeleteOperations, ...repositoryOperations, ...usageOperations, ...purgeOperations]),
)
