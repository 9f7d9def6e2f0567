/** Questions about the root do not wait for a server that is silent: who lists the folder above a mount asks them. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { ROOT_FID } from '../../../src/base/ids.js';
import { clientWorld, O_RDWR } from '../../worlds/client_world.js';

test('space and extended attributes of the root are answered while the server is silent and not known to be away', async (t) => {
  const world = await clientWorld(t);
  const client = await world.client('a');
  await client.fs.setxattr(client.op, ROOT_FID, 'user.a', Buffer.from('one'), 0, false);
  await client.fs.learnRoot(client.op);
  const blocks = (await client.fs.statfs(client.op)).blocks;
  client.lose('requests');
  const asked = Promise.all([
    client.fs.statfs(client.op),
    client.fs.listxattr(client.op, ROOT_FID),
    client.fs.getxattr(client.op, ROOT_FID, 'user.a'),
  ]);
  const [space, names, value] = await world.time.within('the answers', asked);
  assert.deepEqual([space.blocks, names, Buffer.from(value).toString()], [blocks, ['user.a'], 'one']);
  await assert.rejects(async () => client.fs.getxattr(client.op, ROOT_FID, 'system.posix_acl_access'), {
    code: 'ENODATA',
  });
  client.breakConnection();
});

test('the root is opened while the server is silent, and read through that handle in the next instance', async (t) => {
  const world = await clientWorld(t);
  const client = await world.client('a');
  await client.create('f', O_RDWR);
  await client.fs.learnRoot(client.op);
  client.lose('requests');
  const fh = await world.time.within('the open', Promise.resolve(client.fs.open(client.op, ROOT_FID, 0)));
  client.breakConnection();
  await world.upgrade('2.0.0');
  const { entries } = await client.fs.readdir(client.op, fh, 0, 10, false);
  assert.deepEqual(
    entries.map(({ name }) => name),
    ['f'],
  );
  client.fs.release(fh, undefined);
});

test('a mount that nobody uses holds no lock: others change the root without a word to it', async (t) => {
  const world = await clientWorld(t);
  const client = await world.client('idle');
  await client.fs.learnRoot(client.op);
  assert.equal(client.fs.lastKnownAttr(ROOT_FID)?.fid, ROOT_FID);
  // The active server lock is none that anybody asks for.
  assert.deepEqual(client.fs.status().targets[0]?.locks, 0);
});
