import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { ACL_ACCESS, ACL_DEFAULT, encodeAcl, parseAcl } from '../../../../src/rules/acl.js';
import { CopyRange, Fallocate, Read, Seek, Sync, Write } from '../../../../src/wire/data.js';
import {
  Getattr,
  Getxattr,
  Listxattr,
  Open,
  Removexattr,
  Setattr,
  Setxattr,
} from '../../../../src/wire/meta.js';
import { type RawClient, serverWorld } from '../../../worlds/server_world.js';

const MTIME = { sec: 1000, nsec: 7 };

async function oneClient(t: TestContext): Promise<RawClient> {
  const world = await serverWorld(t);
  await world.server();
  return await world.connected();
}
function set(client: RawClient, fid: Fid, name: string, value: Uint8Array, flags = 0) {
  return client.call(Setxattr, { fid, name, value, flags });
}
async function errnoOfSet(
  client: RawClient,
  fid: Fid,
  name: string,
  value: Uint8Array,
  flags = 0,
): Promise<string> {
  return await client.errno(Setxattr, { fid, name, value, flags });
}
async function get(client: RawClient, fid: Fid, name: string): Promise<Buffer> {
  return Buffer.from((await client.call(Getxattr, { fid, name })).value);
}
function write(client: RawClient, fid: Fid, offset: number, data: Buffer) {
  return client.call(Write, { fid, offset, mtime: MTIME, grantUsed: 0 }, { bulk: [data] });
}

/** owner rwx, user 5 r-x, group r--, mask rwx, other ---. */
const ACL = [
  { tag: 1, perm: 7, id: 0xffffffff },
  { tag: 2, perm: 5, id: 5 },
  { tag: 4, perm: 4, id: 0xffffffff },
  { tag: 16, perm: 7, id: 0xffffffff },
  { tag: 32, perm: 0, id: 0xffffffff },
];
const MINIMAL = [
  { tag: 1, perm: 6, id: 0xffffffff },
  { tag: 4, perm: 4, id: 0xffffffff },
  { tag: 32, perm: 4, id: 0xffffffff },
];

test('chmod keeps the type, sets ctime only; utimens sets what it is told', async (t) => {
  const c = await oneClient(t);
  const { attr } = await c.create('f');
  const ctime = { sec: 3, nsec: 4 };
  const changed = (await c.call(Setattr, { fid: attr.fid, mode: 0o4751, ctime })).attr;
  assert.deepEqual([changed.mode, changed.ctime, changed.mtime], [0o104751, ctime, attr.mtime]);
  const times = (await c.call(Setattr, { fid: attr.fid, atime: { sec: -5, nsec: 1 }, mtime: MTIME })).attr;
  assert.deepEqual([times.atime, times.mtime], [{ sec: -5, nsec: 1 }, MTIME]);
});

test('privileges are dropped as the kernel asks, file capabilities with every write', async (t) => {
  const c = await oneClient(t);
  const { attr } = await c.create('f', { mode: 0o106755 });
  await set(c, attr.fid, 'security.capability', Buffer.from('cap'));
  await write(c, attr.fid, 0, Buffer.from('x'));
  assert.equal(await c.errno(Getxattr, { fid: attr.fid, name: 'security.capability' }), 'ENODATA');
  const killed = (await c.call(Setattr, { fid: attr.fid, killSuidgid: true })).attr;
  assert.equal(killed.mode & 0o7777, 0o755);
  const locking = (await c.create('g', { mode: 0o106745 })).attr;
  assert.equal((await c.call(Setattr, { fid: locking.fid, killSuidgid: true })).attr.mode & 0o7777, 0o2745);
});

test('size: truncate cuts and extends with zeros, directories have none, too large is EFBIG', async (t) => {
  const c = await oneClient(t);
  const { attr } = await c.create('f');
  await write(c, attr.fid, 0, Buffer.from('abcdef'));
  await c.call(Setattr, { fid: attr.fid, sizeBytes: 3, mode: 0o600 });
  const longer = (await c.call(Setattr, { fid: attr.fid, sizeBytes: 5 })).attr;
  const { reply, bulk } = await c.answer(Read, { fid: attr.fid, offset: 0, length: 100 });
  assert.deepEqual([longer.sizeBytes, longer.mode & 0o777, reply.sizeBytes], [5, 0o600, 5]);
  assert.deepEqual(Buffer.from(bulk), Buffer.from('abc\0\0'));
  const dir = (await c.mkdir('d')).attr;
  assert.equal(await c.errno(Setattr, { fid: dir.fid, sizeBytes: 0 }), 'EISDIR');
  assert.equal(await c.errno(Setattr, { fid: attr.fid, sizeBytes: Number.MAX_SAFE_INTEGER }), 'EFBIG');
  assert.equal(await c.errno(Open, { fid: dir.fid, fh: c.newFh(), flags: 1, want: 0 }), 'EISDIR');
});

test('xattrs: namespaces, create and replace, names listed, what is missing', async (t) => {
  const c = await oneClient(t);
  const { attr } = await c.create('f');
  const { fid } = attr;
  await set(c, fid, 'user.a', Buffer.from('1'), 1);
  assert.deepEqual(
    [
      await errnoOfSet(c, fid, 'user.a', Buffer.from('2'), 1),
      await errnoOfSet(c, fid, 'user.b', Buffer.from('2'), 2),
      await errnoOfSet(c, fid, 'system.other', Buffer.from('2')),
      await errnoOfSet(c, fid, 'nothing', Buffer.from('2')),
      await errnoOfSet(c, fid, 'user.', Buffer.from('2')),
      await c.errno(Getxattr, { fid, name: 'user.b' }),
      await c.errno(Removexattr, { fid, name: 'user.b' }),
    ],
    ['EEXIST', 'ENODATA', 'EOPNOTSUPP', 'EOPNOTSUPP', 'EINVAL', 'ENODATA', 'ENODATA'],
  );
  await set(c, fid, 'user.a', Buffer.from('22'), 2);
  await set(c, fid, 'trusted.b', Buffer.alloc(0));
  assert.deepEqual([...(await c.call(Listxattr, { fid })).names].sort(), ['trusted.b', 'user.a']);
  assert.deepEqual(await get(c, fid, 'user.a'), Buffer.from('22'));
  await c.call(Removexattr, { fid, name: 'user.a' });
  assert.equal(await c.errno(Getxattr, { fid, name: 'user.a' }), 'ENODATA');
});

test('an access ACL and the mode follow each other', async (t) => {
  const c = await oneClient(t);
  const { fid } = (await c.create('f')).attr;
  const withAcl = (await set(c, fid, ACL_ACCESS, encodeAcl(ACL))).attr;
  assert.equal(withAcl.mode & 0o777, 0o770);
  await c.call(Setattr, { fid, mode: 0o641 });
  const perms = parseAcl(await get(c, fid, ACL_ACCESS))?.map((entry) => entry.perm);
  assert.deepEqual(perms, [6, 5, 4, 4, 1]);
  const minimal = (await set(c, fid, ACL_ACCESS, encodeAcl(MINIMAL))).attr;
  assert.equal(minimal.mode & 0o777, 0o644);
  assert.equal(await c.errno(Getxattr, { fid, name: ACL_ACCESS }), 'ENODATA');
  assert.equal(await c.errno(Removexattr, { fid, name: ACL_ACCESS }), 'no error');
  assert.equal(await errnoOfSet(c, fid, ACL_DEFAULT, encodeAcl(ACL)), 'EACCES');
  assert.equal(await errnoOfSet(c, fid, ACL_ACCESS, Buffer.from('nonsense')), 'EINVAL');
});

test('an ACL set by somebody outside the group takes the set-group-id bit, others leave it', async (t) => {
  const c = await oneClient(t);
  const { fid } = (await c.create('f', { mode: 0o102755 })).attr;
  const value = encodeAcl(ACL);
  const kept = await c.call(Setxattr, { fid, name: ACL_ACCESS, value, flags: 0 });
  const lost = await c.call(Setxattr, { fid, name: ACL_ACCESS, value, flags: 0, killSgid: true });
  assert.deepEqual([kept.attr.mode & 0o7000, lost.attr.mode & 0o7000], [0o2000, 0]);
});

test('a default ACL replaces the umask and is inherited', async (t) => {
  const c = await oneClient(t);
  const dir = (await c.mkdir('d')).attr;
  await set(c, dir.fid, ACL_DEFAULT, encodeAcl(ACL));
  const file = (await c.create('f', { parent: dir.fid, mode: 0o100664, umask: 0o077 })).attr;
  const sub = (await c.create('s', { parent: dir.fid, mode: 0o040777, umask: 0o077 })).attr;
  assert.deepEqual([file.mode & 0o777, sub.mode & 0o777], [0o660, 0o770]);
  assert.deepEqual(
    parseAcl(await get(c, file.fid, ACL_ACCESS))?.map((entry) => entry.perm),
    [6, 5, 4, 6, 0],
  );
  assert.deepEqual(parseAcl(await get(c, sub.fid, ACL_DEFAULT)), ACL);
  const plain = (await c.create('p', { mode: 0o100666, umask: 0o027 })).attr;
  assert.equal(plain.mode & 0o777, 0o640);
});

test('fallocate, seek and copy keep to their rules', async (t) => {
  const c = await oneClient(t);
  const { fid } = (await c.create('f')).attr;
  const data = Buffer.alloc(3 * 4096, 'x');
  await write(c, fid, 0, data);
  const punched = await c.call(Fallocate, { fid, mode: 3, offset: 4096, length: 4096 });
  assert.equal(punched.attr.sizeBytes, data.length);
  assert.equal((await c.call(Seek, { fid, offset: 0, what: 'hole' })).offset, 4096);
  assert.equal((await c.call(Seek, { fid, offset: 4096, what: 'data' })).offset, 8192);
  assert.equal(await c.errno(Seek, { fid, offset: data.length, what: 'data' }), 'ENXIO');
  const grown = await c.call(Fallocate, { fid, mode: 0, offset: 0, length: 5 * 4096 });
  assert.equal(grown.attr.sizeBytes, 5 * 4096);
  const to = (await c.create('copy')).attr.fid;
  const copied = await c.call(CopyRange, {
    fromFid: fid,
    fromOffset: 0,
    toFid: to,
    toOffset: 10,
    length: 8192,
  });
  assert.deepEqual([copied.copied, copied.attr.sizeBytes], [8192, 8202]);
  const overlap = { fromFid: fid, fromOffset: 0, toFid: fid, toOffset: 10, length: 20 };
  assert.deepEqual(
    [
      await c.errno(CopyRange, overlap),
      await c.errno(Fallocate, { fid, mode: 2, offset: 0, length: 1 }),
      await c.errno(Fallocate, { fid, mode: 64, offset: 0, length: 1 }),
      await c.errno(Fallocate, { fid, mode: 0, offset: 0, length: 0 }),
    ],
    ['EINVAL', 'EOPNOTSUPP', 'EOPNOTSUPP', 'EINVAL'],
  );
  await c.call(Sync, {});
  const { lastCommitted, transno } = await c.answer(Setattr, { fid, mode: 0o600 });
  assert.ok(lastCommitted > 0 && transno > lastCommitted);
});

test('a write is answered with the blocks of the file and what was read back is what was written', async (t) => {
  const c = await oneClient(t);
  const { fid } = (await c.create('f')).attr;
  const data = Buffer.alloc(100_000, 'y');
  const { blocks } = await write(c, fid, 5, data);
  const { bulk } = await c.answer(Read, { fid, offset: 0, length: 200_000 });
  assert.equal(blocks, 25 * 8);
  assert.deepEqual(Buffer.from(bulk), Buffer.concat([Buffer.alloc(5), data]));
  const { attr } = await c.call(Getattr, { fid, want: 0 });
  assert.deepEqual([attr.sizeBytes, attr.mtime], [100_005, MTIME]);
  const dir = (await c.mkdir('d')).attr;
  assert.equal(await c.errno(Read, { fid: dir.fid, offset: 0, length: 1 }), 'EISDIR');
});
