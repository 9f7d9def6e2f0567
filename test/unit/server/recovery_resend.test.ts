/** Requests whose answer or which themselves were lost with the server: each has one effect, and the answer of that. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, ROOT_FID } from '../../../src/base/ids.js';
import { CopyRange, Fallocate, Sync, Write } from '../../../src/wire/data.js';
import {
  Close,
  Getattr,
  Link,
  Open,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Unlink,
  WANT_ATTR,
  WANT_DATA_WRITE,
  WANT_PARENT,
} from '../../../src/wire/meta.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const O_RDWR = 2;
const O_TRUNC = 0o1000;

interface Setting {
  readonly world: ServerWorld;
  readonly c: RawClient;
  readonly d: RawClient;
  /** A file and a directory, durable. */
  readonly fid: Fid;
  readonly dir: Fid;
}

async function setting(t: TestContext): Promise<Setting> {
  const world = await serverWorld(t);
  await world.server();
  const [c, d] = [await world.replaying('c'), await world.replaying('d')];
  const { fid } = (await c.create('f')).attr;
  const dir = (await c.mkdir('dir')).attr.fid;
  await c.call(Sync, {});
  return { world, c, d, fid, dir };
}

/** What is to happen to the request, and with the server. */
type Loss =
  /** Executed and durable; the answer is lost. */
  | 'answer'
  /** Executed, not durable; effect and answer are lost. */
  | 'effect'
  /** It never arrives. */
  | 'request';

/**
 * Sends while it is lost, lets the server crash and come back, and gives the answer to what was sent again.
 * @param meanwhile what the other client does between the effect and the crash.
 */
async function through<R>(
  { world, c, d }: Setting,
  loss: Loss,
  send: () => Promise<R>,
  meanwhile: () => Promise<unknown> = () => Promise.resolve(),
): Promise<R> {
  c.deaf = true;
  if (loss === 'effect') world.hold();
  if (loss === 'request') await c.lose();
  const answer = send();
  await world.time.sleep(30);
  if (loss === 'answer') await d.call(Sync, {});
  await meanwhile();
  await world.crash();
  c.deaf = false;
  await world.server();
  await Promise.all([c.comeBack(), d.comeBack()]);
  return await answer;
}

const LOSSES: readonly Loss[] = ['answer', 'effect', 'request'];

for (const loss of LOSSES) {
  test(`${loss} of a create lost`, async (t) => {
    const set = await setting(t);
    const { c } = set;
    const fh = c.newFh();
    const want = WANT_DATA_WRITE | WANT_ATTR | WANT_PARENT;
    const made = await through(set, loss, () => c.create('new', { fh, flags: O_RDWR, want }));
    const found = await c.lookup('new');
    assert.deepEqual(
      { attr: made.attr, existed: made.existed, parent: made.parentAttr?.fid, nlink: made.attr.nlink },
      { attr: found.attr, existed: false, parent: ROOT_FID, nlink: 1 },
    );
    // Answered from the state no lock is granted: the first answer's are gone with the server.
    assert.equal(made.locks.length > 0, loss !== 'answer');
    await c.call(Unlink, { parent: ROOT_FID, name: nameOf('new'), directory: false });
    assert.equal((await c.call(Getattr, { fid: made.attr.fid, want: 0 })).attr.nlink, 0, 'it is open');
    await c.call(Close, { fhs: [fh] });
    assert.equal(await c.errno(Getattr, { fid: made.attr.fid, want: 0 }), 'ESTALE');
  });

  test(`${loss} of an open with O_TRUNC lost`, async (t) => {
    const set = await setting(t);
    const { c, fid } = set;
    const fh = c.newFh();
    const opened = await through(set, loss, () =>
      c.call(Open, { fid, fh, flags: O_RDWR | O_TRUNC, want: 0 }),
    );
    assert.deepEqual([opened.attr.fid, opened.attr.sizeBytes], [fid, 0]);
    await c.call(Unlink, { parent: ROOT_FID, name: nameOf('f'), directory: false });
    assert.equal((await c.call(Getattr, { fid, want: 0 })).attr.nlink, 0, 'it is open');
  });

  test(`${loss} of the close of an unlinked file lost`, async (t) => {
    const set = await setting(t);
    const { world, c, fid } = set;
    const fh = c.newFh();
    await c.call(Open, { fid, fh, flags: O_RDWR, want: 0 });
    await c.call(Unlink, { parent: ROOT_FID, name: nameOf('f'), directory: false });
    await c.call(Sync, {});
    assert.deepEqual(await through(set, loss, () => c.call(Close, { fhs: [fh] })), {});
    assert.equal(await c.errno(Getattr, { fid, want: 0 }), 'ESTALE');
    await world.crash();
  });

  test(`${loss} of rename, exchange, link and unlink lost`, async (t) => {
    const set = await setting(t);
    const { c, fid, dir } = set;
    const names = async (): Promise<(Fid | undefined)[]> =>
      Promise.all(
        [c.lookup('f'), c.lookup('g', dir), c.lookup('h')].map(async (looked) => (await looked).attr?.fid),
      );
    const rename = { parent: ROOT_FID, name: nameOf('f'), newParent: dir, newName: nameOf('g') };
    const moved = await through(set, loss, () => c.call(Rename, { ...rename, flags: 0 }));
    assert.deepEqual(
      [moved.attr.fid, moved.parentAttr.fid, moved.newParentAttr.fid, await names()],
      [fid, ROOT_FID, dir, [undefined, fid, undefined]],
    );
    const linked = await through(set, loss, () => c.call(Link, { fid, parent: ROOT_FID, name: nameOf('h') }));
    assert.deepEqual([linked.attr.nlink, await names()], [2, [undefined, fid, fid]]);
    const other = (await c.create('f')).attr.fid;
    await c.call(Sync, {});
    const exchanged = await through(set, loss, () => c.call(Rename, { ...rename, flags: 2 }));
    assert.deepEqual(
      [exchanged.attr.fid, exchanged.otherAttr?.fid, await names()],
      [other, fid, [fid, other, fid]],
    );
    const gone = await through(set, loss, () =>
      c.call(Unlink, { parent: dir, name: nameOf('g'), directory: false }),
    );
    assert.deepEqual([gone.attr.fid, gone.attr.nlink, await names()], [other, 0, [fid, undefined, fid]]);
    const whiteoutFid = c.newFid();
    const whiteout = { ...rename, name: nameOf('h'), newParent: ROOT_FID, newName: nameOf('i'), flags: 4 };
    const hidden = await through(set, loss, () => c.call(Rename, { ...whiteout, whiteoutFid }));
    assert.deepEqual(
      [hidden.attr.fid, hidden.whiteoutAttr?.fid, hidden.whiteoutAttr?.mode, await names()],
      [fid, whiteoutFid, 0o020000, [fid, undefined, whiteoutFid]],
    );
    const rmdir = await through(set, loss, () =>
      c.call(Unlink, { parent: ROOT_FID, name: nameOf('dir'), directory: true }),
    );
    assert.deepEqual(
      [rmdir.attr.fid, rmdir.attr.nlink, rmdir.parentAttr.nlink, (await c.lookup('dir')).attr],
      [dir, 0, 2, undefined],
    );
  });

  test(`${loss} of chmod, setxattr and removexattr lost`, async (t) => {
    const set = await setting(t);
    const { c, fid } = set;
    const getattr = async () => (await c.call(Getattr, { fid, want: 0 })).attr;
    const changed = await through(set, loss, () => c.call(Setattr, { fid, mode: 0o600 }));
    assert.deepEqual([changed.attr, changed.attr.mode], [await getattr(), 0o100600]);
    const value = Buffer.from('1');
    const set1 = await through(set, loss, () => c.call(Setxattr, { fid, name: 'user.a', value, flags: 1 }));
    assert.deepEqual(set1.attr, await getattr());
    await through(set, loss, () => c.call(Removexattr, { fid, name: 'user.a' }));
    assert.equal(await c.errno(Removexattr, { fid, name: 'user.a' }), 'ENODATA');
  });

  test(`${loss} of write, fallocate and copy lost`, async (t) => {
    const set = await setting(t);
    const { c, fid } = set;
    const to = (await c.create('to')).attr.fid;
    await c.call(Sync, {});
    const bulk = [Buffer.alloc(10_000, 'x')];
    const mtime = { sec: 1, nsec: 0 };
    const wrote = await through(set, loss, () =>
      c.call(Write, { fid, offset: 0, mtime, grantUsed: 0 }, { bulk }),
    );
    assert.equal(wrote.blocks, 24);
    const reserved = await through(set, loss, () =>
      c.call(Fallocate, { fid, mode: 0, offset: 0, length: 50_000 }),
    );
    assert.equal(reserved.attr.sizeBytes, 50_000);
    const copied = await through(set, loss, () =>
      c.call(CopyRange, { fromFid: fid, fromOffset: 5000, toFid: to, toOffset: 0, length: 100_000 }),
    );
    assert.deepEqual([copied.copied, copied.attr.sizeBytes], [45_000, 45_000]);
  });
}

test('a file whose create was not answered, and that another client has unlinked since, stays for who made it', async (t) => {
  const set = await setting(t);
  const { world, c, d } = set;
  const fh = c.newFh();
  const made = await through(
    set,
    'answer',
    () => c.create('short', { fh, flags: O_RDWR }),
    async () => {
      await d.call(Unlink, { parent: ROOT_FID, name: nameOf('short'), directory: false });
      await d.call(Sync, {});
    },
  );
  const server = world.last;
  assert.deepEqual([made.attr.nlink, server.status().orphans], [0, 1]);
  // What was kept for it goes with the next request, and the handle stays.
  await c.call(Getattr, { fid: made.attr.fid, want: 0 });
  assert.equal(server.status().clients.find(({ name }) => name === 'c')?.opens, 1);
  await c.call(Close, { fhs: [fh] });
  assert.equal(server.status().orphans, 0);
});

test('a nameless file whose create was not answered is there when it is asked for again, and else goes', async (t) => {
  const set = await setting(t);
  const { world, c } = set;
  const fh = c.newFh();
  const made = await through(set, 'answer', () => c.create(undefined, { fh, flags: O_RDWR }));
  await c.call(Link, { fid: made.attr.fid, parent: ROOT_FID, name: nameOf('named') });
  assert.equal((await c.lookup('named')).attr?.nlink, 1);
  // One that is never asked for again: the client has given it up.
  c.deaf = true;
  c.create(undefined, { fh: c.newFh(), flags: O_RDWR }).catch(() => undefined);
  await world.time.sleep(30);
  await set.d.call(Sync, {});
  await world.crash();
  c.deaf = false;
  c.requester.failAll(new Error('given up') as never);
  await world.server();
  await Promise.all([c.comeBack([{ fid: made.attr.fid, fh, flags: O_RDWR }]), set.d.comeBack()]);
  await c.call(Getattr, { fid: ROOT_FID, want: 0 });
  await c.call(Getattr, { fid: ROOT_FID, want: 0 });
  assert.deepEqual(
    [world.last.status().orphans, world.last.status().clients.find(({ name }) => name === 'c')?.opens],
    [0, 1],
  );
});
