import { policyOperations } from '../../lib/admin/policy.ts'
import { policyQuestions } from '../../lib/admin/policy-questions.ts'
import { restEndpoints } from '../../lib/admin/rest.ts'
import { handler } from '../../lib/http/mount.ts'

/** The rules, and what they say. */
export default handler(...restEndpoints([...policyOperations, ...policyQuestions]))
