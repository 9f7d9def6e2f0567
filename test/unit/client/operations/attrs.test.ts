import assert from 'node:assert/strict';
import { test } from 'node:test';
import { S_ISUID } from '../../../../src/base/attr.js';
import type { Fid, LockHandle } from '../../../../src/base/ids.js';
import { BIT_ATTR, type GrantMessage } from '../../../../src/wire/lock.js';
import { ScriptedTarget } from '../../../fixtures/scripted_target.js';
import { clientWorld, scriptedWorld } from '../../../worlds/client_world.js';

test('a file may have set-id bits until attributes under a lock say that it has none', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const { fid } = await a.create('f');
  assert.equal(a.fs.mayHaveSetId(a.op, fid), false);
  // The other client's change calls the lock back: until the server has answered, nobody here knows.
  await b.fs.setattr(b.op, fid, { mode: 0o644 | S_ISUID, killSuidgid: false });
  assert.equal(a.fs.mayHaveSetId(a.op, fid), true);
  await a.fs.getattr(a.op, fid);
  assert.equal(a.fs.mayHaveSetId(a.op, fid), true);
  await a.fs.setattr(a.op, fid, { mode: 0o644, killSuidgid: false });
  await a.fs.getattr(a.op, fid);
  assert.equal(a.fs.mayHaveSetId(a.op, fid), false);
});

test('an inode without extended attributes answers for itself, as long as a lock keeps that true', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const { fid } = await a.create('f');
  const ask = () => a.fs.getxattr(a.op, fid, 'user.x');
  // Thrown at once: no message was sent.
  assert.throws(ask, { code: 'ENODATA' });
  assert.throws(() => a.fs.getxattr(a.op, fid, 'system.posix_acl_access'), { code: 'ENODATA' });
  assert.throws(() => a.fs.getxattr(a.op, fid, 'nothing.x'), { code: 'EOPNOTSUPP' });
  assert.deepEqual(a.fs.listxattr(a.op, fid), []);
  await b.fs.setxattr(b.op, fid, 'user.x', Buffer.from('y'), 0, false);
  assert.equal(Buffer.from(await ask()).toString(), 'y');
  assert.deepEqual(await a.fs.listxattr(a.op, fid), ['user.x']);
  await a.fs.getattr(a.op, fid);
  assert.equal(Buffer.from(await ask()).toString(), 'y');
  await b.fs.removexattr(b.op, fid, 'user.x');
  await assert.rejects(async () => ask(), { code: 'ENODATA' });
  await a.fs.getattr(a.op, fid);
  assert.throws(ask, { code: 'ENODATA' });
});

const UNASKED: readonly [string, Omit<GrantMessage, 'handle'>][] = [
  ['on another inode', { fid: 77 as Fid, type: 'inode', mode: 'PR', bits: BIT_ATTR }],
  ['of a stronger mode', { fid: 99 as Fid, type: 'inode', mode: 'PW', bits: BIT_ATTR }],
  ['to write, for a stat', { fid: 99 as Fid, type: 'data', mode: 'PW', bits: 0 }],
];

for (const [what, lock] of UNASKED) {
  test(`a lock ${what} that the client did not ask for is refused, and nothing is believed under it`, async (t) => {
    const target = new ScriptedTarget();
    const client = await scriptedWorld(t, [target]).client('a');
    target.grantsBeside = [lock];
    await assert.rejects(async () => client.fs.getattr(client.op, 99 as Fid), { code: 'EPROTO' });
    assert.deepEqual([...client.fs.heldLocks()], []);
    target.grantsBeside = [{ fid: 99 as Fid, type: 'inode', mode: 'PR', bits: BIT_ATTR }];
    await client.fs.getattr(client.op, 99 as Fid);
    assert.equal([...client.fs.heldLocks()].length, 1);
  });
}

test('a file is forgotten when the interrupted operation ends that had it for itself', async (t) => {
  const target = new ScriptedTarget();
  const world = scriptedWorld(t, [target]);
  const client = await world.client('a');
  const f = await client.create('f');
  target.held.add('SETATTR');
  const { op, interrupt } = client.interruptible();
  const touched = client.fs.setattr(op, f.fid, { mtime: { sec: 5, nsec: 0 }, killSuidgid: false });
  interrupt();
  await assert.rejects(async () => touched, { code: 'EINTR' });
  client.fs.release(f.fh, undefined);
  // The active lock was the first, and the third of those that CREATE granted is this.
  target.bast(4 as LockHandle, f.fid, 'data');
  await world.time.until('the data lock is given back', () => target.of('CANCEL').length > 0);
  assert.equal(client.fs.status().cache.files, 1);
  target.go();
  await world.time.until('the file is forgotten', () => client.fs.status().cache.files === 0);
  client.check();
});
