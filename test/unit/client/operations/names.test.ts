import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Name, ROOT_FID } from '../../../../src/base/ids.js';
import { freshFid } from '../../../../src/client/operations/create.js';
import { FidPool } from '../../../../src/client/session/fid_pool.js';
import { RENAME_EXCHANGE } from '../../../../src/wire/meta.js';
import { clientWorld } from '../../../worlds/client_world.js';

test('two names of one inode that are exchanged both stay, for the client that exchanged them too', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const { fid } = await a.create('one');
  await a.fs.link(a.op, fid, ROOT_FID, 'two' as Name);
  // Linux does not ask for this if it knows that the inode is one. It may not know of another client's link yet.
  await a.fs.rename(a.op, ROOT_FID, 'one' as Name, ROOT_FID, 'two' as Name, RENAME_EXCHANGE);
  const found = [await a.lookup('one'), await a.lookup('two')];
  assert.deepEqual(
    found.map((known) => known?.attr.fid),
    [fid, fid],
  );
});

test('a create that waits for FIDs ends when its caller is interrupted', async () => {
  const abort = new AbortController();
  const never = new FidPool(() => new Promise(() => undefined));
  const op = { uid: 0, gid: 0, signal: abort.signal };
  const taken = freshFid(op, { fids: never });
  abort.abort();
  await assert.rejects(async () => taken, { code: 'EINTR' });
});
