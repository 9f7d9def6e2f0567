/** Commit on sharing: nobody is told of what another client has done before that is durable. docs/recovery/commit_on_sharing.md */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type ClientUuid, type Fid, ROOT_FID, type Transno } from '../../../../src/base/ids.js';
import type { Server } from '../../../../src/server/server.js';
import { Overlay } from '../../../../src/storage/meta/overlay.js';
import { CopyRange, Fallocate, Sync, Write } from '../../../../src/wire/data.js';
import { Cancel, Enqueue } from '../../../../src/wire/lock.js';
import {
  Create,
  Getattr,
  Getxattr,
  Link,
  Open,
  RENAME_EXCHANGE,
  Readdir,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Unlink,
  WANT_ATTR,
  WANT_DATA_READ,
} from '../../../../src/wire/meta.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

const O_RDWR_TRUNC = 0o1002;
const MTIME = { sec: 7, nsec: 8 };

interface Two {
  readonly world: ServerWorld;
  readonly server: Server;
  readonly a: RawClient;
  readonly b: RawClient;
  /** Durable: a directory of both, with the file f in it, and one of b. */
  readonly d: Fid;
  readonly f: Fid;
  readonly ofB: Fid;
}
async function twoClients(t: TestContext): Promise<Two> {
  const world = await serverWorld(t);
  const server = await world.server();
  const a = await world.replaying('a');
  const b = await world.replaying('b');
  const d = (await a.mkdir('d')).attr.fid;
  const f = (await a.create('f', { parent: d })).attr.fid;
  const ofB = (await a.mkdir('of b')).attr.fid;
  await writeUnderLock(a, f, 'content');
  await a.call(Sync, {});
  return { world, server, a, b, d, f, ofB };
}

/** Resolves when the server asks its store for a commit. */
function commitAsked({ target }: Server): Promise<void> {
  assert.ok(target);
  const { store } = target;
  const sync = store.sync.bind(store);
  return new Promise((resolve) => {
    store.sync = () => {
      resolve();
      return sync();
    };
  });
}

/** Whether it has ended is looked at later; it may never do. */
function started(promise: Promise<unknown>): { ended: boolean } {
  const state = { ended: false };
  const end = (): void => {
    state.ended = true;
  };
  promise.then(end, end);
  return state;
}

async function writeUnderLock(client: RawClient, fid: Fid, text: string) {
  const { handle } = await client.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  const request = { fid, offset: 0, mtime: MTIME, grantUsed: 0 };
  const answer = await client.answer(Write, request, { bulk: [Buffer.from(text)] });
  await client.call(Cancel, { handles: [handle] });
  return answer;
}
const unlinkOf = (parent: Fid, name: string) => ({ parent, name: nameOf(name), directory: false });
const renameOf = (parent: Fid, name: string, newParent: Fid, newName: string, flags = 0) => {
  return { parent, name: nameOf(name), newParent, newName: nameOf(newName), flags };
};
const createOf = (client: RawClient, parent: Fid, name: string) => {
  const who = { mode: 0o100644, umask: 0, uid: 0, gid: 0 };
  return { parent, name: nameOf(name), fid: client.newFid(), ...who, exclusive: true, want: 0 };
};

test("a change is another client's business when it is durable; its own client goes on meanwhile, and so does who works elsewhere", async (t) => {
  const { world, server, a, b, d, ofB } = await twoClients(t);
  world.hold();
  await a.create('new', { parent: d });
  const asked = commitAsked(server);
  const looking = started(b.lookup('new', d));
  await asked;
  await b.create('apart', { parent: ofB });
  assert.ok((await a.lookup('new', d)).attr);
  await b.create('and again', { parent: ofB });
  assert.deepEqual([looking.ended, server.target?.locks.hasUncommitted(b.uuid as ClientUuid)], [false, true]);
});

const SHARED: readonly {
  readonly name: string;
  readonly change: (two: Two) => Promise<{ readonly transno: Transno }>;
  readonly look: (two: Two) => Promise<{ readonly lastCommitted: Transno }>;
}[] = [
  {
    name: 'a name made, and read with its directory',
    change: ({ a, d }) => a.answer(Create, createOf(a, d, 'new')),
    look: ({ b, d }) => b.answer(Readdir, { fid: d, cookie: 0, limit: 10, plus: false, want: 0 }),
  },
  {
    name: 'a name taken away, and another made in its place',
    change: ({ a, d }) => a.answer(Unlink, unlinkOf(d, 'f')),
    look: ({ b, d }) => b.answer(Create, createOf(b, d, 'f')),
  },
  {
    name: 'a name moved, and the directory changed that it came from',
    change: ({ a, d, ofB }) => a.answer(Rename, renameOf(d, 'f', ofB, 'g')),
    look: ({ b, d }) => b.answer(Setattr, { fid: d, mode: 0o700 }),
  },
  {
    name: 'a name moved, and the inode linked',
    change: ({ a, d, f }) => a.answer(Link, { fid: f, parent: d, name: nameOf('again') }),
    look: ({ b, f, ofB }) => b.answer(Link, { fid: f, parent: ofB, name: nameOf('g') }),
  },
  {
    name: 'a mode set, and cached',
    change: ({ a, f }) => a.answer(Setattr, { fid: f, mode: 0o600 }),
    look: ({ b, f }) => b.answer(Enqueue, { type: 'inode', fid: f, mode: 'PR', bits: 2 }),
  },
  {
    name: 'an attribute set, and read',
    change: ({ a, f }) => a.answer(Setxattr, { fid: f, name: 'user.x', value: Buffer.from('1'), flags: 0 }),
    look: ({ b, f }) => b.answer(Getxattr, { fid: f, name: 'user.x' }),
  },
  {
    name: 'a file cut, and its size read',
    change: ({ a, f }) => a.answer(Setattr, { fid: f, sizeBytes: 3 }),
    look: ({ b, f }) => b.answer(Getattr, { fid: f, want: WANT_ATTR | WANT_DATA_READ }),
  },
  {
    name: 'a file cut by an open, and its data locked',
    change: ({ a, f }) => a.answer(Open, { fid: f, fh: a.newFh(), flags: O_RDWR_TRUNC, want: 0 }),
    look: ({ b, f }) => b.answer(Enqueue, { type: 'data', fid: f, mode: 'PR' }),
  },
  {
    name: 'data written, and locked to write over it',
    change: ({ a, f }) => writeUnderLock(a, f, 'other'),
    look: ({ b, f }) => b.answer(Enqueue, { type: 'data', fid: f, mode: 'PW' }),
  },
  {
    name: 'data written, and its size looked up',
    change: ({ a, f }) => writeUnderLock(a, f, 'more content'),
    look: ({ b, f }) => b.answer(Getattr, { fid: f, want: 0 }),
  },
  {
    name: 'space allocated, and the file copied',
    change: ({ a, f }) => a.answer(Fallocate, { fid: f, mode: 0, offset: 0, length: 9000 }),
    look: async ({ b, f, ofB }) => {
      const { fid } = (await b.create('copy', { parent: ofB })).attr;
      return b.answer(CopyRange, { fromFid: f, fromOffset: 0, toFid: fid, toOffset: 0, length: 9000 });
    },
  },
];

for (const { name, change, look } of SHARED) {
  test(`shared: ${name}`, async (t) => {
    const two = await twoClients(t);
    const { transno } = await change(two);
    assert.ok(transno > 0);
    const { lastCommitted } = await look(two);
    assert.ok(lastCommitted >= transno, `answered at ${lastCommitted}, changed at ${transno}`);
  });
}

test('a refusal is about what lasts, too', async (t) => {
  const { server, a, b, d } = await twoClients(t);
  const store = server.target?.store;
  const gone = await a.answer(Unlink, unlinkOf(d, 'f'));
  assert.equal(await b.errno(Unlink, unlinkOf(d, 'f')), 'ENOENT');
  assert.ok((store?.lastCommitted ?? 0) >= gone.transno);
  const made = await a.answer(Create, createOf(a, d, 'f'));
  assert.equal(await b.errno(Create, createOf(b, d, 'f')), 'EEXIST');
  assert.ok((store?.lastCommitted ?? 0) >= made.transno);
});

test('a directory is moved below one that another client has moved when that will last', async (t) => {
  const { a, b, d, ofB } = await twoClients(t);
  const x = (await a.mkdir('x', d)).attr.fid;
  const y = (await a.mkdir('y', x)).attr.fid;
  await b.mkdir('m', ofB);
  await a.call(Sync, {});
  // No directory that the second move changes is changed by the first.
  const { transno } = await a.answer(Rename, renameOf(d, 'x', ROOT_FID, 'x'));
  const { lastCommitted } = await b.answer(Rename, renameOf(ofB, 'm', y, 'm'));
  assert.ok(lastCommitted >= transno);
});

test('readdir leaves out the attributes that another client has changed and no commit has made durable', async (t) => {
  const { world, a, b, d, f } = await twoClients(t);
  const g = (await a.create('g', { parent: d })).attr.fid;
  const h = (await a.create('h', { parent: d })).attr.fid;
  await a.call(Sync, {});
  world.hold();
  await a.call(Setattr, { fid: f, mode: 0o600 });
  await writeUnderLock(a, g, 'x');
  const list = () => {
    const want = WANT_ATTR | WANT_DATA_READ;
    return b.call(Readdir, { fid: d, cookie: 0, limit: 10, plus: true, want });
  };
  const { entries, locks } = await list();
  assert.deepEqual(
    entries.map(({ attr }) => attr?.fid),
    [undefined, undefined, h],
  );
  assert.deepEqual(
    locks.map(({ type, fid }) => [type, fid]),
    [
      ['data', f],
      ['data', h],
      ['inode', h],
    ],
  );
  // What it has it is not granted once more.
  assert.deepEqual((await list()).locks, []);
});

/** Every inode whose records the operations of this test change. */
function changedFids(t: TestContext): Set<Fid> {
  const fids = new Set<Fid>();
  const spy = <
    K extends 'putInode' | 'destroyInode' | 'putDirent' | 'removeDirent' | 'putXattr' | 'setBlockMap',
  >(
    method: K,
    fidOf: (...args: Parameters<Overlay[K]>) => Fid,
  ): void => {
    const original = Overlay.prototype[method] as (...args: Parameters<Overlay[K]>) => void;
    t.mock.method(Overlay.prototype, method, function (this: Overlay, ...args: Parameters<Overlay[K]>) {
      fids.add(fidOf(...args));
      original.apply(this, args);
    } as never);
  };
  spy('putInode', (inode) => inode.fid);
  spy('destroyInode', (fid) => fid);
  spy('putDirent', (parent) => parent);
  spy('removeDirent', (parent) => parent);
  spy('putXattr', (fid) => fid);
  spy('setBlockMap', (fid) => fid);
  return fids;
}

test('whatever an operation changes is noted: parents, what is replaced, what is new', async (t) => {
  const { world, server, a, b, d, f, ofB } = await twoClients(t);
  const changed = changedFids(t);
  world.hold();
  const expectNoted = (what: string, count: number): void => {
    const { locks } = server.target ?? {};
    const missed = [...changed].filter((fid) => {
      const inode = { type: 'inode', fid, mode: 'PR', bits: 3 } as const;
      const data = { type: 'data', fid, mode: 'PR', bits: 0 } as const;
      const uuid = b.uuid as ClientUuid;
      return !locks?.isUncommitted(uuid, inode) && !locks?.isUncommitted(uuid, data);
    });
    assert.deepEqual([what, missed, changed.size], [what, [], count]);
    changed.clear();
  };
  const made = (await a.create('new', { parent: d })).attr.fid;
  expectNoted('create', 2);
  const sub = (await a.mkdir('sub', d)).attr.fid;
  expectNoted('mkdir', 2);
  await a.create(undefined, { parent: ofB, fh: a.newFh(), flags: 2 });
  expectNoted('a nameless file', 1);
  await a.create('symlink', { parent: sub, mode: 0o120777, target: Buffer.from('x') });
  expectNoted('symlink', 2);
  await a.call(Link, { fid: f, parent: ROOT_FID, name: nameOf('linked') });
  expectNoted('link', 2);
  await a.call(Rename, renameOf(d, 'new', sub, 'moved'));
  expectNoted('rename', 3);
  await a.call(Rename, renameOf(ROOT_FID, 'linked', sub, 'moved'));
  expectNoted('rename over another', 4);
  await a.call(Rename, renameOf(d, 'sub', ROOT_FID, 'of b', RENAME_EXCHANGE));
  expectNoted('exchange of directories', 4);
  await a.call(Setattr, { fid: f, uid: 7 });
  expectNoted('chown', 1);
  await a.call(Setxattr, { fid: f, name: 'user.x', value: Buffer.from('1'), flags: 0 });
  expectNoted('setxattr', 1);
  await a.call(Removexattr, { fid: f, name: 'user.x' });
  expectNoted('removexattr', 1);
  await writeUnderLock(a, f, 'z'.repeat(10_000));
  expectNoted('write', 1);
  await a.call(Enqueue, { type: 'data', fid: f, mode: 'PW' });
  await a.call(Setattr, { fid: f, sizeBytes: 5 });
  expectNoted('truncate under a lock of its own', 1);
  await a.call(Unlink, unlinkOf(d, 'f'));
  expectNoted('unlink', 2);
  assert.notEqual(made, sub);
});

test('who waits for a commit can be evicted, and the server can stop', async (t) => {
  const { world, server, a, b, d, ofB } = await twoClients(t);
  const c = await world.replaying('c');
  world.hold();
  await a.create('new', { parent: d });
  const asked = commitAsked(server);
  const first = started(b.create('late', { parent: d }));
  await asked;
  server.evict('b', 'to see what happens');
  await a.create('newer', { parent: d });
  const second = started(c.create('later', { parent: d }));
  // Requests are dispatched in order: it waits now.
  await c.create('apart', { parent: ofB });
  await world.crash();
  assert.deepEqual([first.ended, second.ended, server.state], [false, false, 'stopped']);
});

// ---- Stories.

async function names(client: RawClient, fid: Fid): Promise<string[]> {
  const { entries } = await client.call(Readdir, { fid, cookie: 0, limit: 1000, plus: false, want: 0 });
  return entries.map(({ name }) => name).sort();
}

test('hold; one client creates 25, another one in the same directory; that one dies; crash: the 25 are there, and recovery ends by its window', async (t) => {
  const { world, server, a, b, d } = await twoClients(t);
  world.hold();
  for (let index = 0; index < 25; index += 1) await a.create(`f${index}`, { parent: d });
  const asked = commitAsked(server);
  const other = started(b.create('other', { parent: d }));
  await asked;
  assert.equal(other.ended, false);
  await b.lose();
  await world.crash();
  const next = await world.server({ recoverySoftMs: 300 });
  const { replays } = await a.comeBack();
  const { evicted } = next.status();
  assert.deepEqual([replays.length, Math.max(...replays), evicted.map(({ name }) => name)], [25, 0, ['b']]);
  assert.deepEqual(await names(a, d), [...Array.from({ length: 25 }, (_, index) => `f${index}`), 'f'].sort());
});

test('a client has changed d, uncommitted, and another unlinks d/f; the first dies; crash: all is as if the first had done nothing, and the other goes on', async (t) => {
  const { world, server, a, b, d } = await twoClients(t);
  world.hold();
  const made = await a.mkdir('sub', d);
  await a.create('in sub', { parent: made.attr.fid });
  const asked = commitAsked(server);
  const unlinking = b.answer(Unlink, unlinkOf(d, 'f'));
  await asked;
  await a.lose();
  await world.crash();
  const next = await world.server({ recoverySoftMs: 300 });
  await b.comeBack();
  // It had no answer, and is executed now.
  const { reply } = await unlinking;
  const { attr } = await b.call(Getattr, { fid: d, want: 0 });
  assert.deepEqual(
    [await names(b, d), attr.nlink, reply.attr.nlink, next.status().evicted.map(({ name }) => name)],
    [[], 2, 0, ['a']],
  );
});
