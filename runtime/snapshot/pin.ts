import type { MetadataStore } from '../../lib/metadata/sql.ts'

const lookEveryMs = 500

export interface Pin {
  /** Errors: a plain Error where files may have gone since it was made. */
  check(): Promise<void>
  remove(): Promise<void>
}

/**
 * Keeps every file where it is while a backup copies what its copy of the database names. A pin ends two epochs after it was made, so that
 * one of a process that died holds nothing for ever; this one is renewed as the epoch moves.
 */
export async function pinFiles(metadata: MetadataStore, id: string, now: number): Promise<Pin> {
  await metadata.write((sql) => sql.run(`INSERT INTO gc_pins(id, epoch, made_at) SELECT ?, epoch, ? FROM instance`, [id, now]))
  let failure: Error | undefined
  let looking = Promise.resolve()
  const look = async () => {
    const [pin] = await metadata.read.all<{ behind: number }>(
      `SELECT (SELECT epoch FROM instance) - epoch AS behind FROM gc_pins WHERE id = ?`,
      [id],
    )
    if (pin?.behind === 0) return
    // One that has ended must not be renewed: files may have gone.
    const renewed = await metadata.write((sql) =>
      sql.run(
        `UPDATE gc_pins SET epoch = (SELECT epoch FROM instance) WHERE id = ? AND epoch > (SELECT epoch FROM instance) - 2`,
        [id],
      ),
    )
    if (renewed === 0)
      failure ??= new Error('the hold on the files ended while they were copied, and some may have gone: take the snapshot again')
  }
  const timer = setInterval(() => {
    looking = looking.then(look).catch((error: Error) => {
      failure ??= error
    })
  }, lookEveryMs)
  return {
    async check() {
      await looking
      await look()
      if (failure) throw failure
    },
    async remove() {
      clearInterval(timer)
      await looking
      await metadata.write((sql) => sql.run(`DELETE FROM gc_pins WHERE id = ?`, [id]))
    },
  }
}
