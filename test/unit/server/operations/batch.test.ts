/** BATCH and own locks, as the server executes and grants them. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { type ClientUuid, type Fid, ROOT_FID } from '../../../../src/base/ids.js';
import type { Server } from '../../../../src/server/server.js';
import { Batch, operationCost } from '../../../../src/wire/batch.js';
import { Read, Sync } from '../../../../src/wire/data.js';
import { FLAG_RECOVERY } from '../../../../src/wire/header.js';
import { Cancel, Enqueue, type GrantMessage } from '../../../../src/wire/lock.js';
import {
  Getattr,
  Link,
  RENAME_EXCHANGE,
  Readdir,
  Readlink,
  Statfs,
  WANT_ATTR,
  WANT_DATA_WRITE,
  WANT_OWN,
  WANT_OWN_FILES,
  WANT_OWN_PARENT,
  WANT_PARENT,
} from '../../../../src/wire/meta.js';
import type { RequestOf } from '../../../../src/wire/operation.js';
import { FEATURE, FEATURES_ALL, RecoveryDone, type ReplayLocks } from '../../../../src/wire/session.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../../worlds/server_world.js';

type Operations = RequestOf<typeof Batch>['operations'];
type Operation = Operations[number];

const OWN_DIRECTORY = WANT_ATTR | WANT_OWN;
const OWN_FILE = WANT_ATTR | WANT_DATA_WRITE;
const T = { sec: 1_000, nsec: 5 };
const at = (sec: number) => ({ sec: T.sec + sec, nsec: T.nsec });

function createOf(
  parent: Fid,
  name: string,
  fid: Fid,
  more: Partial<NonNullable<Operation['create']>> = {},
): Operation {
  const who = { umask: 0o022, uid: 1000, gid: 1000 };
  const file = {
    parent,
    name: nameOf(name),
    fid,
    mode: 0o100666,
    ...who,
    exclusive: true,
    want: OWN_FILE,
    time: T,
  };
  return { create: { ...file, ...more } };
}
const mkdirOf = (parent: Fid, name: string, fid: Fid) =>
  createOf(parent, name, fid, { mode: 0o040777, want: OWN_DIRECTORY });
const contentOf = (fid: Fid, text: string, mtime = T): Operation => {
  return { content: { fid, mtime, lengthBytes: text.length } };
};
const unlinkOf = (parent: Fid, name: string, directory = false): Operation => {
  return { unlink: { parent, name: nameOf(name), directory, time: T } };
};
const renameOf = (parent: Fid, name: string, newParent: Fid, newName: string, flags = 0): Operation => {
  return { rename: { parent, name: nameOf(name), newParent, newName: nameOf(newName), flags, time: T } };
};

function send(client: RawClient, operations: Operations, text = '', grantUsed = 0) {
  const bulk = text === '' ? undefined : [Buffer.from(text)];
  return client.answer(Batch, { operations, grantUsed }, { bulk });
}
async function names(client: RawClient, fid: Fid): Promise<string[]> {
  const { entries } = await client.call(Readdir, { fid, cookie: 0, limit: 100, plus: false, want: 0 });
  return entries.map((entry) => entry.name);
}
async function content(client: RawClient, fid: Fid): Promise<string> {
  return Buffer.from((await client.answer(Read, { fid, offset: 0, length: 1 << 16 })).bulk).toString();
}
const attrOf = async (client: RawClient, fid: Fid) => (await client.call(Getattr, { fid, want: 0 })).attr;

interface Setting {
  readonly world: ServerWorld;
  readonly server: Server;
  readonly a: RawClient;
  /** A directory that `a` owns, durable. */
  readonly d: Fid;
}

async function batching(world: ServerWorld, name: string, features = FEATURES_ALL): Promise<RawClient> {
  const client = world.client(name);
  client.features = features;
  await client.connect();
  await client.activate();
  return client;
}
async function ownDirectory(client: RawClient, name: string): Promise<Fid> {
  const { attr, locks } = await client.create(name, { mode: 0o040755, want: OWN_DIRECTORY });
  assert.deepEqual(
    locks.map(({ fid, mode, bits }) => [fid, mode, bits]),
    [
      [attr.fid, 'PR', 3],
      [attr.fid, 'EX', 3],
    ],
  );
  return attr.fid;
}
async function owner(t: TestContext): Promise<Setting> {
  const world = await serverWorld(t);
  const server = await world.server();
  const a = await batching(world, 'a');
  const d = await ownDirectory(a, 'd');
  await a.call(Sync, {});
  return { world, server, a, d };
}

/** Resolves with the reason when the server has evicted the client. */
async function evicted(world: ServerWorld, client: RawClient): Promise<string> {
  return await world.time.until('the eviction', () => client.evictions[0]);
}

/** The locks granted on these inodes. Those on others may be of inodes that live without a name for a moment. */
function grantsFor(locks: readonly GrantMessage[], fids: readonly Fid[]): (readonly [Fid, string, string])[] {
  return locks
    .filter(({ fid }) => fids.includes(fid))
    .map(({ fid, type, mode }) => [fid, type, mode] as const);
}

test('a batch is executed in its order, in one transaction, with the times that it says', async (t) => {
  const { server, a, d } = await owner(t);
  const [f, g, gone, link, sub, inSub] = Array.from({ length: 6 }, () => a.newFid()) as [
    Fid,
    Fid,
    Fid,
    Fid,
    Fid,
    Fid,
  ];
  const store = server.target?.store;
  const before = store?.lastTransno ?? 0;
  const { reply, transno } = await send(
    a,
    [
      createOf(d, 'f', f),
      contentOf(f, 'hello', at(1)),
      createOf(d, 'g', g),
      { setattr: { fid: g, mode: 0o600, atime: at(2), time: at(3) } },
      renameOf(d, 'g', d, 'moved'),
      createOf(d, 'gone', gone),
      contentOf(gone, 'away'),
      unlinkOf(d, 'gone'),
      createOf(d, 'link', link, { mode: 0o120777, target: Buffer.from('f'), want: WANT_ATTR }),
      mkdirOf(d, 'sub', sub),
      createOf(sub, 'in', inSub),
      renameOf(sub, 'in', d, 'out'),
      renameOf(d, 'link', d, 'f2'),
    ],
    'helloaway',
  );
  assert.deepEqual([store?.lastTransno, transno], [before + 1, before + 1]);
  const listed = await a.call(Readdir, { fid: d, cookie: 0, limit: 100, plus: false, want: 0 });
  assert.deepEqual(
    listed.entries.map(({ name, fid }) => [name, fid]),
    [
      ['f', f],
      ['moved', g],
      ['sub', sub],
      ['out', inSub],
      ['f2', link],
    ],
  );
  const cookies = new Map(listed.entries.map(({ name, cookie }) => [name as string, cookie]));
  const [posF, , posMoved, , , posSub, , posOut, posF2] = reply.positions;
  assert.deepEqual(
    [posF, posMoved, posSub, posOut, posF2],
    ['f', 'moved', 'sub', 'out', 'f2'].map((name) => cookies.get(name)),
  );
  assert.equal(reply.positions.length, 9, 'one for each name that was made');
  assert.deepEqual([await content(a, f), await names(a, sub)], ['hello', []]);
  const file = await attrOf(a, f);
  assert.deepEqual([file.mtime, file.ctime, file.btime, file.mode & 0o777], [at(1), at(1), T, 0o644]);
  const changed = await attrOf(a, g);
  assert.deepEqual([changed.mode & 0o777, changed.atime, changed.ctime, changed.mtime], [0o600, at(2), T, T]);
  assert.deepEqual(reply.directories, [await attrOf(a, d), await attrOf(a, sub)]);
  assert.equal(Buffer.from((await a.call(Readlink, { fid: link })).target).toString(), 'f');
  assert.deepEqual(grantsFor(reply.locks, [f, g, link, sub, inSub]), [
    [f, 'data', 'PW'],
    [f, 'inode', 'PR'],
    [g, 'data', 'PW'],
    [g, 'inode', 'PR'],
    [link, 'inode', 'PR'],
    [sub, 'inode', 'PR'],
    [sub, 'inode', 'EX'],
    [inSub, 'data', 'PW'],
    [inSub, 'inode', 'PR'],
  ]);
});

test('a file that its batch makes and takes away may have attributes and content behind that', async (t) => {
  const world = await serverWorld(t);
  const server = await world.server();
  // Without holds nobody is asked whether the file is in use: it is destroyed with its name.
  const a = await batching(world, 'a', FEATURES_ALL & ~FEATURE.holds);
  const d = await ownDirectory(a, 'd');
  const [fid, stays] = [a.newFid(), a.newFid()];
  const operations = [
    createOf(d, 'f', fid),
    unlinkOf(d, 'f'),
    { setattr: { fid, mode: 0o600, time: T } },
    contentOf(fid, 'gone'),
    createOf(d, 'stays', stays),
    contentOf(stays, 'text'),
  ];
  const { reply } = await send(a, operations, 'gonetext');
  assert.deepEqual(
    [await names(a, d), await content(a, stays), server.target?.store.hasInode(fid)],
    [['stays'], 'text', false],
  );
  assert.deepEqual(grantsFor(reply.locks, [fid]), []);
});

const REFUSED: readonly {
  readonly what: string;
  readonly why: RegExp;
  readonly operations: (client: RawClient, d: Fid, f: Fid) => Operations;
  readonly bulk?: string;
}[] = [
  {
    what: 'a name in a directory of which it has no own lock',
    why: /EPERM.*names of inode/,
    operations: (c) => [createOf(ROOT_FID, 'f', c.newFid())],
  },
  {
    what: 'a move into such a directory',
    why: /EPERM.*names of inode/,
    operations: (_c, d) => [renameOf(d, 'old', ROOT_FID, 'x')],
  },
  {
    what: 'a name that is there',
    why: /operation 1 of 1: EEXIST/,
    operations: (c, d) => [createOf(d, 'old', c.newFid())],
  },
  {
    what: 'a good operation before a bad one',
    why: /operation 2 of 2: ENOENT/,
    operations: (c, d) => [createOf(d, 'new', c.newFid()), unlinkOf(d, 'none')],
  },
  {
    what: 'a FID that is in use',
    why: /EPROTO.*in use/,
    operations: (_c, d, f) => [createOf(d, 'new', f)],
  },
  {
    what: 'a file without a name',
    why: /EPROTO.*without a name/,
    operations: (c, d) => [createOf(d, 'x', c.newFid(), { name: undefined, fh: c.newFh() })],
  },
  {
    what: 'an operation without a time',
    why: /EPROTO.*no time/,
    operations: (c, d) => [createOf(d, 'new', c.newFid(), { time: undefined })],
  },
  {
    what: 'attributes without a time',
    why: /EPROTO.*no time/,
    operations: (_c, _d, f) => [{ setattr: { fid: f, mode: 0o600 } }],
  },
  {
    what: 'a size',
    why: /EPROTO.*size/,
    operations: (_c, _d, f) => [{ setattr: { fid: f, sizeBytes: 0, time: T } }],
  },
  {
    what: 'an exchange',
    why: /EPROTO.*flags/,
    operations: (_c, d) => [renameOf(d, 'old', d, 'full', RENAME_EXCHANGE)],
  },
  {
    what: 'a directory that is not empty',
    why: /ENOTEMPTY/,
    operations: (_c, d) => [unlinkOf(d, 'full', true)],
  },
  {
    what: 'nothing where an operation should be',
    why: /EPROTO.*0 operations/,
    operations: () => [{}],
  },
  {
    what: 'two operations in one place',
    why: /EPROTO.*2 operations/,
    operations: (c, d) => [{ ...createOf(d, 'new', c.newFid()), ...unlinkOf(d, 'old') }],
  },
  {
    what: 'content of a file that is not new',
    why: /EPROTO.*not new/,
    operations: (_c, _d, f) => [contentOf(f, 'text')],
    bulk: 'text',
  },
  {
    what: 'less content than it names',
    why: /EPROTO.*more content than came/,
    operations: (c, d) => {
      const fid = c.newFid();
      return [createOf(d, 'new', fid), contentOf(fid, 'text')];
    },
    bulk: 'tex',
  },
  {
    what: 'more content than it names',
    why: /EPROTO.*5 bytes came, 4 are named/,
    operations: (c, d) => {
      const fid = c.newFid();
      return [createOf(d, 'new', fid), contentOf(fid, 'text')];
    },
    bulk: 'text!',
  },
  {
    what: 'content that is too long for the meta store',
    why: /EINVAL.*4033 bytes/,
    operations: (c, d) => {
      const fid = c.newFid();
      return [createOf(d, 'new', fid), contentOf(fid, 'x'.repeat(4033))];
    },
    bulk: 'x'.repeat(4033),
  },
];

for (const { what, why, operations, bulk } of REFUSED) {
  test(`the server refuses a batch as a whole, and evicts its client: ${what}`, async (t) => {
    const { world, server, a, d } = await owner(t);
    const other = await batching(world, 'other');
    const full = (await a.mkdir('full', d)).attr.fid;
    await a.create('in', { parent: full });
    const f = (await a.create('old', { parent: d })).attr.fid;
    const store = server.target?.store;
    const state = () => [
      store?.inode(d),
      store?.inode(f),
      store?.dirents(d, 0, 100),
      store?.dirents(ROOT_FID, 0, 100),
    ];
    const before = state();
    send(a, operations(a, d, f), bulk).catch(() => undefined);
    assert.match(await evicted(world, a), why);
    assert.deepEqual(state(), before);
    server.target?.checkInvariants();
    assert.ok((await other.lookup('old', d)).attr);
  });
}

test('an inode that another client has a lock on is nothing to decide alone', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  const { fid } = (await a.create('f', { parent: d })).attr;
  b.yields = false;
  await b.call(Enqueue, { type: 'inode', fid, mode: 'PR', bits: 2 });
  send(a, [{ setattr: { fid, mode: 0o600, time: T } }]).catch(() => undefined);
  assert.match(await evicted(world, a), /EPERM.*inode of inode/);
});

test('a file is not removed under pages of another client', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  const { fid } = (await a.create('f', { parent: d })).attr;
  await b.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  send(a, [unlinkOf(d, 'f')]).catch(() => undefined);
  assert.match(await evicted(world, a), /EPERM.*data of inode/);
});

/** A file that was in `d` before, with a listing that asks for own locks on what is there. */
async function listedToOwn(a: RawClient, d: Fid): Promise<readonly GrantMessage[]> {
  const want = WANT_ATTR | WANT_OWN_FILES;
  return (await a.call(Readdir, { fid: d, cookie: 0, limit: 100, plus: true, want })).locks;
}
/** The own lock of a file. */
const ofFile = (fid: Fid) => ({ fid, type: 'inode' as const, mode: 'EX' as const, bits: 2 });

test('own locks on files come to the owner of their directory alone, and only where no other client is', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  const old = await batching(world, 'old', FEATURES_ALL & ~FEATURE.ownFiles);
  const made = async (name: string) => (await a.create(name, { parent: d })).attr.fid;
  const [alone, attributes, data, linked] = [
    await made('f'),
    await made('g'),
    await made('h'),
    await made('i'),
  ];
  const sub = (await a.mkdir('sub', d)).attr.fid;
  await a.call(Link, { fid: linked, parent: d, name: nameOf('second') });
  await a.call(Sync, {});
  await b.call(Enqueue, { type: 'inode', fid: attributes, mode: 'PR', bits: 2 });
  await b.call(Enqueue, { type: 'data', fid: data, mode: 'PR' });
  const locks = await listedToOwn(a, d);
  assert.deepEqual(
    locks.filter(({ mode }) => mode === 'EX').map(({ fid, bits }) => [fid, bits]),
    [[alone, 2]],
    `not ${attributes}, ${data}, ${linked}, ${sub}`,
  );
  assert.deepEqual((await a.lookup('f', d, WANT_OWN_FILES)).locks, [], 'it has it');
  const inRoot = (await a.create('in root')).attr.fid;
  assert.deepEqual((await a.lookup('in root', ROOT_FID, WANT_OWN_FILES)).locks, [], `${inRoot} is nobody's`);
  const of = await ownDirectory(old, 'of old');
  await old.create('f', { parent: of });
  const theirs = await listedToOwn(old, of);
  assert.deepEqual(
    theirs.map(({ mode }) => mode),
    ['PR'],
  );
});

test('an own lock on a file is called back by whoever looks at the file', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  const { fid } = (await a.create('f', { parent: d })).attr;
  const lock = (await listedToOwn(a, d)).find(({ mode }) => mode === 'EX');
  a.yields = false;
  const seen = attrOf(b, fid);
  await world.time.until('the callback', () => a.basts.length > 0);
  await send(a, [{ setattr: { fid, mode: 0o600, time: T } }]);
  await a.call(Cancel, { handles: a.basts.map(({ handle }) => handle) });
  assert.equal((await seen).mode, 0o100600);
  assert.ok(a.basts.some(({ handle }) => handle === lock?.handle));
  assert.deepEqual(a.evictions, []);
});

test('a file under an own lock is removed although another client has pages of it, as UNLINK removes it', async (t) => {
  const { world, server, a, d } = await owner(t);
  const b = await batching(world, 'b');
  const { fid } = (await a.create('f', { parent: d })).attr;
  await listedToOwn(a, d);
  await b.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  await send(a, [unlinkOf(d, 'f')]);
  await world.time.until('nobody uses it', () => server.target?.store.hasInode(fid) === false);
  assert.deepEqual([a.evictions, b.evictions], [[], []]);
});

test('an inode that another client holds is not removed by a batch, nor moved', async (t) => {
  for (const operation of [
    (d: Fid) => unlinkOf(d, 'f'),
    (d: Fid) => renameOf(d, 'f', d, 'g'),
    (d: Fid) => renameOf(d, 'g', d, 'f'),
  ]) {
    const { world, a, d } = await owner(t);
    const b = await batching(world, 'b');
    const { fid } = (await a.create('f', { parent: d })).attr;
    await a.create('g', { parent: d });
    // It has had the lock, and has given it back.
    const locks = await listedToOwn(a, d);
    await a.call(Cancel, { handles: locks.filter((lock) => lock.fid === fid).map(({ handle }) => handle) });
    await a.call(Sync, {});
    b.yields = false;
    await b.call(Enqueue, { type: 'inode', fid, mode: 'PR', bits: 2 });
    send(a, [operation(d)]).catch(() => undefined);
    assert.match(await evicted(world, a), /EPERM.*inode of inode/);
  }
});

test('own locks on files are replayed as they were, and no others', async (t) => {
  const { world, a, d } = await owner(t);
  const old = await batching(world, 'old', FEATURES_ALL & ~FEATURE.ownFiles);
  const { fid } = (await a.create('f', { parent: d })).attr;
  await listedToOwn(a, d);
  await a.call(Sync, {});
  await world.crash();
  await world.server();
  assert.equal((await old.connect()).outcome, 'recover');
  assert.deepEqual((await old.replayAll([], [ofFile(fid)])).locks, [0]);
  assert.equal((await a.connect()).outcome, 'recover');
  const { locks } = await a.replayAll(
    [],
    [ofFile(d), { ...ofFile(fid), bits: 3 }, ownLockOf(d), ofFile(fid)],
  );
  assert.deepEqual(
    locks.map((handle) => handle !== 0),
    [false, false, true, true],
  );
});

test('a directory whose owner is called back shows what the owner did before that, and not before the owner is done', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  a.yields = false;
  let found = false;
  const looking = b.lookup('f', d).then(({ attr }) => {
    found = true;
    return attr;
  });
  await world.time.until('the callback', () => a.basts.length > 0);
  const fid = a.newFid();
  const { reply } = await send(a, [createOf(d, 'f', fid), contentOf(fid, 'text')], 'text');
  await a.call(Sync, {});
  assert.equal(found, false);
  const handles = a.basts.map(({ handle }) => handle);
  await a.call(Cancel, { handles: [...handles, ...reply.locks.map(({ handle }) => handle)] });
  const attr = await looking;
  assert.deepEqual([attr?.fid, attr?.sizeBytes, await content(b, fid)], [fid, 4, 'text']);
});

test('an owner that is called back has time while its batches come, and none when they do not', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  a.yields = false;
  const looking = b.lookup('f0', d);
  await world.time.until('the callback', () => a.basts.length > 0);
  const text = 'x'.repeat(4000);
  const start = world.time.clock.nowMs();
  for (let round = 0; world.time.clock.nowMs() - start < 60_000; round += 1) {
    const fids = Array.from({ length: 20 }, () => a.newFid());
    const operations = fids.flatMap((fid, index) => [
      createOf(d, `f${round * 20 + index}`, fid, { want: 0 }),
      contentOf(fid, text),
    ]);
    await send(a, operations, text.repeat(fids.length));
    await b.call(Statfs, {});
    await world.time.sleep(5_000);
  }
  assert.deepEqual(a.evictions, []);
  for (let times = 0; times < 7 && a.evictions.length === 0; times += 1) {
    await world.time.sleep(5_000);
    a.call(Statfs, {}).catch(() => undefined);
    await b.call(Statfs, {});
  }
  assert.match(a.evictions[0] ?? '', /did not give back a lock on inode/);
  assert.equal((await looking).attr?.sizeBytes, text.length);
});

test('nobody sees the names of a batch before they are durable', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  world.hold();
  const fid = a.newFid();
  const { transno } = await send(a, [createOf(d, 'f', fid, { want: 0 })]);
  let found = false;
  void b.lookup('f', d).then(() => {
    found = true;
  });
  await world.time.until('the callback', () => a.basts.length > 0);
  await world.time.sleep(500);
  assert.equal(found, false);
  await world.crash();
  assert.ok(transno > 0);
});

test('own locks come only to a client that knows them, and only where no other client has a lock', async (t) => {
  const { world, a } = await owner(t);
  const b = await world.replaying('b');
  const want = OWN_DIRECTORY | WANT_PARENT | WANT_OWN_PARENT;
  const modes = ({ locks }: { locks: readonly { fid: Fid; mode: string }[] }) =>
    locks.map(({ fid, mode }) => [fid, mode]);
  const plain = await b.create('of b', { mode: 0o040755, want });
  assert.deepEqual(modes(plain), [
    [plain.attr.fid, 'PR'],
    [ROOT_FID, 'PR'],
  ]);
  const shared = await a.lookup('of b', ROOT_FID, want);
  assert.deepEqual(modes(shared), [
    [plain.attr.fid, 'PR'],
    [ROOT_FID, 'PR'],
  ]);
  b.link?.destroy();
  await b.connect();
  await b.call(Cancel, { handles: plain.locks.map(({ handle }) => handle) });
  await a.call(Sync, {});
  const alone = await a.lookup('of b', ROOT_FID, want);
  assert.deepEqual(modes(alone), [
    [plain.attr.fid, 'EX'],
    [ROOT_FID, 'EX'],
  ]);
  assert.deepEqual(modes(await a.lookup('of b', ROOT_FID, want)), [], 'it has them');
});

test('a listing says nothing of the attributes of a directory that another client owns', async (t) => {
  const { world, a, d } = await owner(t);
  const b = await batching(world, 'b');
  const { fid } = (await a.mkdir('free')).attr;
  await a.call(Sync, {});
  const { entries } = await b.call(Readdir, {
    fid: ROOT_FID,
    cookie: 0,
    limit: 10,
    plus: true,
    want: WANT_ATTR,
  });
  assert.deepEqual(
    entries.map((entry) => [entry.fid, entry.attr?.fid]),
    [
      [d, undefined],
      [fid, fid],
    ],
  );
  assert.deepEqual(a.basts, [], 'and calls nobody back');
});

test('a batch that is sent again on a new connection is executed once, and has the same answer', async (t) => {
  const { server, a, d } = await owner(t);
  const fid = a.newFid();
  a.deaf = true;
  const answer = send(a, [createOf(d, 'f', fid), contentOf(fid, 'text')], 'text');
  await a.time.sleep(50);
  const store = server.target?.store;
  const last = store?.lastTransno;
  const locks = server.target?.locks.cacheLocks(a.uuid as ClientUuid);
  await a.lose();
  a.deaf = false;
  assert.equal((await a.connect()).outcome, 'resumed');
  const { reply, transno } = await answer;
  assert.deepEqual([transno, store?.lastTransno], [last, last]);
  assert.deepEqual(server.target?.locks.cacheLocks(a.uuid as ClientUuid), locks);
  const known = locks?.map(({ handle }) => handle) ?? [];
  assert.ok(reply.locks.length === 2 && reply.locks.every(({ handle }) => known.includes(handle)));
});

/**
 * A directory that `a` owns, whose FID is above those that `a` gives. So an operation that takes locks in the order of FIDs
 * has one on a name's inode while it waits for the directory.
 */
async function ownedAbove(t: TestContext): Promise<Setting & { readonly b: RawClient }> {
  const world = await serverWorld(t);
  const server = await world.server();
  const a = await batching(world, 'a');
  const b = await batching(world, 'b');
  const d = (await b.mkdir('d')).attr.fid;
  await b.call(Sync, {});
  const { locks } = await a.lookup('d', ROOT_FID, OWN_DIRECTORY);
  assert.ok(locks.some(({ fid, mode }) => fid === d && mode === 'EX'));
  a.yields = false;
  return { world, server, a, b, d };
}

test('an operation that waits for the owner keeps the owner from nothing', async (t) => {
  const { world, a, b, d } = await ownedAbove(t);
  const [f, g] = [a.newFid(), a.newFid()];
  await send(a, [createOf(d, 'f', f, { want: 0 }), createOf(d, 'g', g, { want: 0 })]);
  await a.call(Sync, {});
  const looking = Promise.all([b.lookup('f', d), b.lookup('g', d)]);
  await world.time.until('the callback', () => a.basts.length > 0);
  await send(a, [{ setattr: { fid: f, mode: 0o600, time: T } }, unlinkOf(d, 'g')]);
  await a.call(Cancel, { handles: a.basts.map(({ handle }) => handle) });
  const [found, gone] = await looking;
  assert.deepEqual([(found.attr?.mode ?? 0) & 0o777, gone.attr, a.evictions], [0o600, undefined, []]);
});

test('a new directory whose own lock an operation keeps from its maker takes what the maker has executed in it', async (t) => {
  const { world, a, b, d } = await ownedAbove(t);
  const [g, f] = [a.newFid(), a.newFid()];
  a.deaf = true;
  const made = send(a, [mkdirOf(d, 'g', g)]);
  const { store } = world.last.target ?? {};
  await world.time.until('the batch', () => store?.inode(g));
  await store?.sync();
  await world.crash();
  await world.server();
  a.deaf = false;
  assert.equal((await a.connect({ hasMoreThanOpens: true })).outcome, 'recover');
  await a.replayAll([], [ownLockOf(d)]);
  const recovered = a.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
  await b.comeBack();
  await recovered;
  a.basts.length = 0;
  const looking = b.lookup('g', d);
  await world.time.until('the callback', () => a.basts.length > 0);
  await a.goOn();
  assert.deepEqual(grantsFor((await made).reply.locks, [g]), [[g, 'inode', 'PR']]);
  await send(a, [createOf(g, 'f', f, { want: 0 })]);
  await a.call(Cancel, { handles: a.basts.map(({ handle }) => handle) });
  assert.deepEqual([(await looking).attr?.fid, (await b.lookup('f', g)).attr?.fid, a.evictions], [g, f, []]);
});

test('a target that has failed refuses no batch: its client keeps it for the next instance', async (t) => {
  const { world, server, a, d } = await owner(t);
  assert.ok(server.target !== undefined);
  server.target.store.hasInode = () => {
    throw new FsError('EIO', 'the device fails');
  };
  let answered = false;
  send(a, [createOf(d, 'f', a.newFid())]).then(
    () => {
      answered = true;
    },
    () => {
      answered = true;
    },
  );
  await world.time.until('the end of the connection', () => a.closed);
  assert.deepEqual([answered, a.evictions, a.requester.inFlight], [false, [], 1]);
});

/** The own lock on a directory, as its owner replays it. */
const ownLockOf = (fid: Fid): RequestOf<typeof ReplayLocks>['locks'][number] => {
  return { fid, type: 'inode', mode: 'EX', bits: 3 };
};

test('an answer that was lost with the server is made anew: positions, directories and locks', async (t) => {
  const { world, a, d } = await owner(t);
  const [f, g] = [a.newFid(), a.newFid()];
  a.deaf = true;
  const operations = [
    createOf(d, 'f', f),
    mkdirOf(d, 'g', g),
    createOf(d, 'x', a.newFid()),
    renameOf(d, 'x', d, 'y'),
  ];
  const used = 5 * operationCost(2, 0);
  const answer = send(a, [...operations, unlinkOf(d, 'y')], '', used);
  const { store } = world.last.target ?? {};
  await world.time.until('the batch', () => store?.inode(f));
  await store?.sync();
  const executed = store?.lastTransno;
  const entries = new Map(store?.dirents(d, 0, 10).map(({ name, cookie }) => [name as string, cookie]));
  const directory = store?.inode(d);
  await world.crash();
  const next = await world.server();
  a.deaf = false;
  assert.equal((await a.connect({ metaGrantInUse: used, hasMoreThanOpens: true })).outcome, 'recover');
  const { locks } = await a.replayAll([], [ownLockOf(d)]);
  await a.call(RecoveryDone, {}, { flags: FLAG_RECOVERY });
  assert.equal(grantsOf(next), used);
  await a.goOn();
  assert.notEqual(locks[0], 0, 'the own lock is replayed');
  const { reply, transno } = await answer;
  assert.deepEqual(
    [transno, reply.positions, reply.directories.map(({ mtime, nlink }) => [mtime, nlink])],
    [executed, [entries.get('f'), entries.get('g'), 0, 0], [[directory?.mtime, directory?.nlink]]],
  );
  assert.deepEqual(grantsFor(reply.locks, [f, g]), [
    [f, 'data', 'PW'],
    [f, 'inode', 'PR'],
    [g, 'inode', 'PR'],
    [g, 'inode', 'EX'],
  ]);
  assert.equal(grantsOf(next), reply.grantBytes, 'what it used is spent');
  await send(a, [createOf(g, 'in', a.newFid())]);
  assert.deepEqual([await names(a, d), await names(a, g)], [['f', 'g'], ['in']]);
});

test('batches that were answered and not durable are replayed as they were', async (t) => {
  const { world, a, d } = await owner(t);
  world.hold();
  const [f, g, x] = [a.newFid(), a.newFid(), a.newFid()];
  await send(a, [createOf(d, 'f', f), contentOf(f, 'text', at(1)), createOf(d, 'x', x)], 'text');
  const { reply } = await send(a, [mkdirOf(d, 'g', g), renameOf(d, 'f', g, 'moved'), unlinkOf(d, 'x')]);
  const inOther = await send(a, [createOf(g, 'last', a.newFid())]);
  const state = async () => [
    await Promise.all([d, g, f].map((fid) => attrOf(a, fid))),
    await a.call(Readdir, { fid: d, cookie: 0, limit: 10, plus: false, want: 0 }),
    await a.call(Readdir, { fid: g, cookie: 0, limit: 10, plus: false, want: 0 }),
    await content(a, f),
  ];
  const before = await state();
  await world.crash();
  const next = await world.server();
  const { replays, locks } = await a.comeBack([], [ownLockOf(d), ownLockOf(g)]);
  assert.deepEqual([replays, locks.filter((handle) => handle === 0)], [[0, 0, 0], []]);
  const held = next.target?.locks.cacheLocks(a.uuid as ClientUuid).map(({ handle }) => handle);
  assert.deepEqual(held, locks, 'the replays themselves grant nothing');
  assert.deepEqual(await state(), before);
  assert.ok(reply.positions.length === 2 && inOther.transno > 0);
  await send(a, [createOf(g, 'new', a.newFid()), unlinkOf(g, 'moved')]);
  assert.deepEqual(await names(a, g), ['last', 'new']);
  next.target?.checkInvariants();
});

test('an own lock is replayed by a client that knows own locks, and only as a whole', async (t) => {
  const { world, a, d } = await owner(t);
  const old = await world.replaying('old');
  const mine = (await old.mkdir('mine')).attr.fid;
  await old.call(Sync, {});
  await world.crash();
  await world.server();
  assert.equal((await old.connect()).outcome, 'recover');
  assert.deepEqual((await old.replayAll([], [ownLockOf(mine)])).locks, [0]);
  assert.equal((await a.connect()).outcome, 'recover');
  const { locks } = await a.replayAll([], [{ ...ownLockOf(d), bits: 2 }, ownLockOf(d)]);
  assert.deepEqual([locks[0], locks[1] !== 0], [0, true]);
});

test('the server says its time and what it promises; what it promises it keeps from others', async (t) => {
  const { world, a, server } = await owner(t);
  const b = await batching(world, 'b');
  const before = await b.call(Statfs, {});
  const c = world.client('c');
  c.features = FEATURES_ALL;
  const { metaGrantBytes = 0, time } = await c.connect();
  assert.deepEqual(Object.keys(time ?? {}), ['sec', 'nsec']);
  assert.ok(metaGrantBytes >= 16 * operationCost(0, 0), `${metaGrantBytes}`);
  const after = await b.call(Statfs, {});
  assert.ok(
    before.inodesFree - after.inodesFree >= metaGrantBytes / 1024,
    `${before.inodesFree - after.inodesFree}`,
  );
  await c.activate();
  assert.equal(server.target?.metaGrants.promisedBytes, grantsOf(server));
  const plain = world.client('plain');
  const { metaGrantBytes: none, time: noTime } = await plain.connect();
  assert.deepEqual([none, noTime], [undefined, undefined]);
  server.evict('c', 'test');
  const { inodesFree } = await b.call(Statfs, {});
  // Records of clients wait in the redo log: a page or two.
  assert.ok(Math.abs(inodesFree - before.inodesFree) < 16, `${inodesFree}, before ${before.inodesFree}`);
  assert.deepEqual(a.evictions, []);
});

function grantsOf({ target }: Server): number {
  return [...(target?.exports ?? [])].reduce((sum, { metaGrantBytes }) => sum + metaGrantBytes, 0);
}

test('a batch pays from the grant, and its answer fills the grant up', async (t) => {
  const { world } = await owner(t);
  const b = world.client('b');
  b.features = FEATURES_ALL;
  const { metaGrantBytes = 0 } = await b.connect();
  await b.activate();
  const d = await ownDirectory(b, 'of b');
  const most = Math.floor(metaGrantBytes / operationCost(4, 0));
  const filled: number[] = [];
  for (let left = most, number = 0; left > 0; left -= 10) {
    const count = Math.min(10, left);
    const operations = Array.from({ length: count }, () =>
      createOf(d, `f${1000 + number++}`.slice(1), b.newFid(), { want: 0 }),
    );
    const { reply } = await send(b, operations, '', count * operationCost(4, 0));
    filled.push(reply.grantBytes);
  }
  assert.equal(filled[0], 0, 'more than half is left');
  assert.ok(
    filled.some((bytes) => bytes > metaGrantBytes / 4),
    `${filled}`,
  );
  const asked = await send(b, []);
  assert.deepEqual([asked.transno, asked.reply.positions], [0, []]);
});

test('a client that comes back has what it uses promised again, before others get anything', async (t) => {
  const { world, a } = await owner(t);
  await world.crash();
  const next = await world.server();
  const used = 5 * operationCost(10, 0);
  const reply = await a.connect({ metaGrantInUse: used, hasMoreThanOpens: true });
  assert.deepEqual(
    [reply.outcome, reply.metaGrantBytes, next.target?.metaGrants.promisedBytes],
    ['recover', 0, used],
  );
});
