import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Fid, type Name, ROOT_FID } from '../../../../src/base/ids.js';
import type { Caller } from '../../../../src/client/api.js';
import { freshFid } from '../../../../src/client/operations/create.js';
import { FidPool } from '../../../../src/client/session/fid_pool.js';
import { RENAME_EXCHANGE } from '../../../../src/wire/meta.js';
import { clientWorld, errnoOf } from '../../../worlds/client_world.js';

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

test('the kernel forgets what it knew when an operation takes effect whose caller was interrupted', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a', { syncMetadata: true });
  const { fid } = await a.create('f');
  const calls = {
    link: (op: Caller) => a.fs.link(op, fid, ROOT_FID, 'g' as Name),
    mkdir: (op: Caller) => a.fs.create(op, ROOT_FID, 'd' as Name, { mode: 0o040755, umask: 0 }),
    rename: (op: Caller) => a.fs.rename(op, ROOT_FID, 'f' as Name, ROOT_FID, 'h' as Name, 0),
    unlink: (op: Caller) => a.fs.unlink(op, ROOT_FID, 'g' as Name, false),
  };
  for (const [what, call] of Object.entries(calls)) {
    a.kernel.told.length = 0;
    const { op, interrupt } = a.interruptible();
    const called = errnoOf(() => call(op));
    interrupt();
    assert.equal(await called, 'EINTR', what);
    await world.time.until(`the kernel is told of ${what}`, () => a.kernel.told.includes('names'));
    assert.ok(a.kernel.told.some((told) => told.startsWith('attrs ') && told.includes(`${ROOT_FID}`)));
  }
  assert.deepEqual(await a.names(), ['d', 'h']);
});

test('a create that waits for FIDs ends when its caller is interrupted', async () => {
  const abort = new AbortController();
  const never = new FidPool(() => new Promise(() => undefined));
  const op = { uid: 0, gid: 0, signal: abort.signal };
  const taken = freshFid(op, { fids: never });
  abort.abort();
  await assert.rejects(async () => taken, { code: 'EINTR' });
});

test('a listing of which the cache has dropped the first part does not make the directory a whole', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const d = await a.mkdir('d');
  for (const name of ['first', 'second', 'third']) await a.close(await a.create(name, undefined, d));
  await a.unmount();
  const fh = await b.fs.open(b.op, d, 0);
  const { entries } = await b.fs.readdir(b.op, fh, 0, 2, true);
  assert.equal(entries.length, 2);
  // As the LRU of names does it when there are more than 500,000.
  for (const table of b.fs.checked() as unknown as { names?: { drop?(fid: Fid): void } }[])
    table.names?.drop?.(d);
  assert.equal((await b.fs.readdir(b.op, fh, entries[1]?.cookie ?? 0, 2, true)).end, true);
  assert.ok(await b.lookup('first', d));
  b.fs.release(fh, undefined);
});
