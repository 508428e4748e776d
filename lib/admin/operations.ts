import { accountOperations } from './accounts.ts'
import { auditOperations } from './audit.ts'
import { garbageOperations } from './garbage.ts'
import { loginOperations } from './logins.ts'
import type { Operation } from './operation.ts'
import { policyOperations } from './policy.ts'
import { policyQuestions } from './policy-questions.ts'
import { purgeOperations } from './purge.ts'
import { repositoryOperations } from './repositories.ts'
import { robotOperations } from './robots.ts'
import { roleOperations } from './roles.ts'
import { storageOperations } from './storage.ts'
import { keyOperations, systemOperations } from './system.ts'
import { tagOperations } from './tags.ts'
import { tokenOperations } from './tokens.ts'
import { trustOperations } from './trusts.ts'
import { undeleteOperations } from './undelete.ts'
import { usageOperations } from './usage.ts'

/** Everything the administration can do. REST, RPC, the command line and their documents are made of this table. */
export const operations: readonly Operation[] = [
  ...systemOperations,
  ...keyOperations,
  ...loginOperations,
  ...tagOperations,
  ...repositoryOperations,
  ...undeleteOperations,
  ...usageOperations,
  ...purgeOperations,
  ...garbageOperations,
  ...storageOperations,
  ...policyOperations,
  ...policyQuestions,
  ...auditOperations,
  ...accountOperations,
  ...roleOperations,
  ...tokenOperations,
  ...robotOperations,
  ...trustOperations,
]
