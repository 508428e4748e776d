/** AES-GCM over a secret that the database keeps: 12 bytes of nonce, then the ciphertext; bound to the row it belongs to. */
export async function seal(key: CryptoKey, secret: object, kid: string): Promise<Uint8Array<ArrayBuffer>> {
  const iv = crypto.getRandomValues(new Uint8Array(12))
  const encode = new TextEncoder()
  const sealed = new Uint8Array(
    await crypto.subtle.encrypt(
      { name: 'AES-GCM', iv, additionalData: encode.encode(kid) },
      key,
      encode.encode(JSON.stringify(secret)),
    ),
  )
  const bytes = new Uint8Array(iv.length + sealed.length)
  bytes.set(iv)
  bytes.set(sealed, iv.length)
  return bytes
}

/** Errors: a plain Error that says what to do, where the key was sealed with another secret. */
export async function unseal<T extends object = JsonWebKey>(
  key: CryptoKey,
  bytes: Uint8Array<ArrayBuffer>,
  kid: string,
): Promise<T> {
  try {
    const algorithm = { name: 'AES-GCM', iv: bytes.subarray(0, 12), additionalData: new TextEncoder().encode(kid) }
    return JSON.parse(new TextDecoder().decode(await crypto.subtle.decrypt(algorithm, key, bytes.subarray(12)))) as T
  } catch (cause) {
    throw new Error(
      'a key in the database was sealed with another auth key: restore auth.key_file, or delete the rows of signing_keys and journal_keys',
      { cause },
    )
  }
}

/** The key that seals, of `auth.key_file`'s 32 bytes. */
export async function sealingKeyOf(secret: Uint8Array<ArrayBuffer>): Promise<CryptoKey> {
  return await crypto.subtle.importKey('raw', secret, 'AES-GCM', false, ['encrypt', 'decrypt'])
}
