/** A client takes only the cache locks that it has asked for: what else a server grants is EPROTO, and enters no table. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { Fid, LockHandle } from '../../../src/base/ids.js';
import { BIT_ATTR, BIT_UPDATE, type GrantMessage } from '../../../src/wire/lock.js';
import { ScriptedTarget } from '../../fixtures/scripted_target.js';
import { errnoOf, O_RDONLY, O_WRONLY, scriptedWorld, type TestClient } from '../../worlds/client_world.js';

const OTHER = 77 as Fid;

async function world(t: TestContext): Promise<{ target: ScriptedTarget; client: TestClient }> {
  const target = new ScriptedTarget();
  const scripted = scriptedWorld(t, [target]);
  return { target, client: await scripted.client('a') };
}

const isOfFile = ({ type, bits }: GrantMessage): boolean => type === 'inode' && bits === BIT_ATTR;
const isOfParent = ({ type, bits }: GrantMessage): boolean =>
  type === 'inode' && bits === (BIT_UPDATE | BIT_ATTR);
const isData = ({ type }: GrantMessage): boolean => type === 'data';

const WRONG: readonly [string, (grant: GrantMessage) => boolean, Partial<GrantMessage>][] = [
  ['attributes of another inode', isOfFile, { fid: OTHER }],
  ['attributes in a stronger mode', isOfFile, { mode: 'EX' }],
  ['names of what is no directory', isOfFile, { bits: BIT_UPDATE | BIT_ATTR }],
  ['no bits at all', isOfFile, { bits: undefined }],
  ['names of another directory', isOfParent, { fid: OTHER }],
  ['names to be changed', isOfParent, { mode: 'PW' }],
  ['unknown bits of the directory', isOfParent, { bits: 7 }],
  ['content of the directory', isOfParent, { type: 'data', bits: undefined }],
  ['content of another inode', isData, { fid: OTHER }],
  ['content in a mode that nobody wants', isData, { mode: 'EX' }],
];

for (const [what, isMeant, wrong] of WRONG) {
  test(`a CREATE that grants ${what} fails with EPROTO`, async (t) => {
    const { target, client } = await world(t);
    target.grants = (grant) => (isMeant(grant) ? { ...grant, ...wrong } : grant);
    assert.equal(await errnoOf(() => client.create('f', O_WRONLY)), 'EPROTO');
    assert.deepEqual(client.fs.heldLocks(), []);
    client.check();
    target.grants = (grant) => grant;
    await client.create('g', O_WRONLY);
    assert.deepEqual(
      client.fs
        .heldLocks()
        .map(({ type, mode }) => `${type} ${mode}`)
        .sort(),
      ['data PW', 'inode PR', 'inode PR'],
    );
  });
}

test('content that is to be written is not granted to who only reads', async (t) => {
  const { target, client } = await world(t);
  const makes = target.grants;
  target.grants = (grant) =>
    isOfFile(grant) ? { ...grant, type: 'data', mode: 'PW', bits: undefined } : grant;
  assert.equal(await errnoOf(() => client.create('f', O_RDONLY)), 'EPROTO');
  target.grants = makes;
});

test('two locks under one handle are EPROTO', async (t) => {
  const { target, client } = await world(t);
  await client.mkdir('one');
  const [held] = client.fs.heldLocks() as readonly GrantMessage[];
  target.grants = (grant) => ({ ...grant, handle: held?.handle as LockHandle });
  assert.equal(await errnoOf(() => client.mkdir('two')), 'EPROTO');
  client.check();
});

test('an ENQUEUE that is answered without its lock, or with something else, is EPROTO', async (t) => {
  const { target, client } = await world(t);
  // Nothing but what it asks for by itself.
  const file = await client.create('f', O_RDONLY);
  const read = (): Promise<string> => errnoOf(() => client.read(file, 0, 10));
  target.enqueued = (usual) => ({ ...usual, granted: false });
  assert.equal(await read(), 'EPROTO');
  target.enqueued = (usual) => ({ ...usual, attr: usual.attr && { ...usual.attr, fid: OTHER } });
  assert.equal(await read(), 'EPROTO');
  const [held] = client.fs.heldLocks() as readonly GrantMessage[];
  target.enqueued = (usual) => ({ ...usual, handle: held?.handle as LockHandle });
  assert.equal(await read(), 'EPROTO');
  assert.ok(client.fs.heldLocks().every(({ type }) => type === 'inode'));
  client.check();
  await client.time.until('nothing is under way', () => client.target.rpcsInFlight === 0);
});
