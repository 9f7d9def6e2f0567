import assert from 'node:assert/strict';
import { test } from 'node:test';
import { S_ISUID } from '../../../../src/base/attr.js';
import { clientWorld } from '../../../worlds/client_world.js';

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
