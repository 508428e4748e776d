/** The port to password hashing: slow on purpose, two at a time, with a bounded queue. */
export interface PasswordHasher {
  /** A self-describing hash (argon2id, PHC string). Errors: PASSWORD_TOO_LONG over 1,024 bytes; PASSWORD_BUSY when the queue is full. */
  hash(password: string): Promise<string>
  /** Whether `password` made `hash`. `key` names who waits (an address), so that one cannot fill the queue for all. Errors: PASSWORD_BUSY. */
  verify(password: string, hash: string, key: string): Promise<boolean>
}
