// The checker of histories is itself shown what it must refuse, and what it must not.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { check, type Operation } from '../linearize/checker.ts'
import { type Call, step } from '../linearize/register.ts'

const at = (invoked: number, completed: number, call: Call): Operation<Call> => ({ invoked, completed, call })
const put = (digest: string, status = 201, more: { ifMatch?: string | null; immutable?: boolean } = {}): Call => ({
  kind: 'put',
  digest,
  status,
  immutable: false,
  ...more,
})
const read = (digest: string | null): Call => ({ kind: 'read', digest })
const remove = (status = 202): Call => ({ kind: 'delete', status })
const never = Number.POSITIVE_INFINITY

const fine: Record<string, Operation<Call>[]> = {
  'nothing happened': [],
  'one after the other': [at(0, 1, put('a')), at(2, 3, read('a')), at(4, 5, remove()), at(6, 7, read(null))],
  'a read beside a write sees the old or the new': [
    at(0, 1, put('a')),
    at(2, 9, put('b')),
    at(3, 4, read('a')),
    at(5, 6, read('b')),
  ],
  'a write without an answer happened late': [at(0, never, put('a')), at(1, 2, read(null)), at(50, 51, read('a'))],
  'a write without an answer never happened': [at(0, never, put('a')), at(1, 2, put('b')), at(50, 51, read('b'))],
  'one of two swaps wins': [
    at(0, 1, put('a')),
    at(2, 6, put('b', 201, { ifMatch: 'a' })),
    at(3, 5, put('c', 412, { ifMatch: 'a' })),
    at(7, 8, read('b')),
  ],
  'an immutable tag refuses': [
    at(0, 1, put('a', 201, { immutable: true })),
    at(2, 3, put('b', 403, { immutable: true })),
    at(4, 5, read('a')),
  ],
  'a list sees that it exists': [at(0, 1, put('a')), at(2, 3, { kind: 'list', exists: true })],
}
const wrong: Record<string, Operation<Call>[]> = {
  'a lost update': [at(0, 1, put('a')), at(2, 3, read(null))],
  'an old value comes back': [at(0, 1, put('a')), at(2, 3, put('b')), at(4, 5, read('b')), at(6, 7, read('a'))],
  'two reads see a write and then not': [at(0, 1, put('a')), at(2, 9, put('b')), at(3, 4, read('b')), at(5, 6, read('a'))],
  'a value that nobody wrote': [at(0, 1, put('a')), at(2, 3, read('z'))],
  'a deleted tag is read': [at(0, 1, put('a')), at(2, 3, remove()), at(4, 5, read('a'))],
  'something is deleted that was not there': [at(0, 1, remove())],
  'both swaps win': [at(0, 1, put('a')), at(2, 6, put('b', 201, { ifMatch: 'a' })), at(3, 5, put('c', 201, { ifMatch: 'a' }))],
  'a swap fails without a cause': [at(0, 1, put('a')), at(2, 3, put('b', 412, { ifMatch: 'a' }))],
  'made twice where it must not exist': [at(0, 1, put('a', 201, { ifMatch: null })), at(2, 3, put('b', 201, { ifMatch: null }))],
  'an immutable tag moves': [at(0, 1, put('a', 201, { immutable: true })), at(2, 3, put('b', 201, { immutable: true }))],
  'a list without a tag that exists': [at(0, 1, put('a')), at(2, 3, { kind: 'list', exists: false })],
  'a write without an answer is seen and gone': [
    at(0, never, put('a')),
    at(1, 2, put('b')),
    at(3, 4, read('a')),
    at(5, 6, read('b')),
  ],
}
for (const [name, history] of Object.entries(fine))
  test(`linearizable: ${name}`, () => assert.equal(check(history, null, step), undefined))
for (const [name, history] of Object.entries(wrong))
  test(`not linearizable: ${name}`, () => assert.notEqual(check(history, null, step), undefined))

test('one wrong read among a thousand operations is found', () => {
  const history: Operation<Call>[] = []
  for (let index = 0; index < 500; index++) {
    history.push(at(index * 10, index * 10 + 7, put(`v${index}`)), at(index * 10 + 3, index * 10 + 9, read(`v${index}`)))
    if (index % 50 === 0) history.push(at(index * 10, never, put(`lost${index}`)))
  }
  assert.equal(check(history, null, step), undefined)
  history.push(at(2_505, 2_506, read('v3')))
  assert.equal(check(history, null, step)?.stuck.call.kind, 'read')
})
