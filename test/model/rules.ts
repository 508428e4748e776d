/**
 * The rules of the protocol, each as the defect of not having it. The programs ask `rules.has(…)` where the rule is; with an empty set they
 * are the protocol.
 */
export type Defect =
  | 'the digest is the path'
  | 'no upload row before the first file'
  | 'no fence'
  | 'no file fsync'
  | 'no fsync of the directory of blobs'
  | 'no fsync of the directory of uploads'
  | 'no commit waits for the disk'
  | 'collecting does not wait for the disk'
  | 'expiry does not wait for the disk'
  | 'a finisher trusts the final name'
  | 'the manifest is checked and written in two transactions'
  | 'a manifest trusts what its client was told'
  | 'a mount looks and links in two transactions'
  | 'collection in two transactions'
  | 'the row goes after the file'
  | 'deleted manifests are not references'
  | 'deleting a blob takes its link'
  | 'hidden links count'
  | 'undelete does not show links'
  | 'the sweep asks first and lists second'
  | 'the sweep ignores uploads'
  | 'the sweep keeps what an incarnation left in uploads'
  | 'the sweep asks for blobs before uploads'
  | 'expiry takes files before the row'
  | 'the wrong copy goes to the trash'
  | 'the reaper ignores pins'
  | 'the reaper asks for pins in a statement of its own'
  | 'a backup pins after it copied the database'
  | 'files go before the number of their removal is noted'
  | 'a database is started without comparing the numbers'

export type Rules = ReadonlySet<Defect>
