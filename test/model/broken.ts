import type { Defect } from './rules.ts'

const pushes = 'two pushes beside collection'
const swept = 'two pushes beside expiry and sweep'
const twice = 'a PUT that comes twice, of one segment'
const joined = 'joined segments beside all upkeep'
const deletes = 'mount, delete and undelete'
const saved = 'a backup beside collection'
const putBack = 'an older database is put back'
const damage = 'a stored file is lost and pushed again'

/** Every rule of the protocol taken away, and the scenario that must then find something wrong. */
export const broken: readonly (readonly [defects: readonly Defect[], scenario: string])[] = [
  [['the digest is the path'], pushes],
  [['no upload row before the first file'], swept],
  [['no fence'], swept],
  [['no file fsync'], pushes],
  [['no fsync of the directory of blobs'], pushes],
  [['no fsync of the directory of uploads'], joined],
  [['no commit waits for the disk'], pushes],
  [['collecting does not wait for the disk'], pushes],
  [['expiry does not wait for the disk'], joined],
  [['a finisher trusts the final name'], twice],
  [['the manifest is checked and written in two transactions'], pushes],
  [['a manifest trusts what its client was told'], pushes],
  [['a mount looks and links in two transactions'], deletes],
  [['collection in two transactions'], pushes],
  [['the row goes after the file'], pushes],
  [['deleted manifests are not references'], deletes],
  [['deleting a blob takes its link'], deletes],
  [['hidden links count'], deletes],
  [['undelete does not show links'], deletes],
  [['the sweep asks first and lists second'], swept],
  [['the sweep ignores uploads'], swept],
  [['the sweep asks for blobs before uploads'], swept],
  [['the sweep keeps what an incarnation left in uploads'], joined],
  [['expiry takes files before the row'], joined],
  [['the wrong copy goes to the trash'], pushes],
  [['the wrong copy goes to the trash'], damage],
  [['the reaper ignores pins'], saved],
  [['the reaper asks for pins in a statement of its own'], saved],
  [['a backup pins after it copied the database'], saved],
  [['files go before the number of their removal is noted'], putBack],
  [['a database is started without comparing the numbers'], putBack],
]
