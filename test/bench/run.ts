// Measures this registry beside Debian's docker-registry in one run. Ratios are what counts: the machine's own noise is in both.
// `npm run bench` runs everything; `npm run bench -- beside scale start memory access binary accel` names parts.
import { accel } from './accel.ts'
import { access } from './access.ts'
import { beside } from './beside.ts'
import { binary } from './binary.ts'
import { memoryUse } from './memory-use.ts'
import { scale } from './scale.ts'
import { start } from './start.ts'

const parts = { beside, scale, start, memory: memoryUse, access, binary, accel }
const wanted = process.argv.slice(2)
for (const [name, run] of Object.entries(parts)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  console.log(`\n── ${name}`)
  await run()
}
