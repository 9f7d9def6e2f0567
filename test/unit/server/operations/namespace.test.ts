import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { O_TRUNC, S_ISGID } from '../../../../src/base/attr.js';
import { type Fid, ROOT_FID } from '../../../../src/base/ids.js';
import { Write } from '../../../../src/wire/data.js';
import {
  Close,
  Getattr,
  Link,
  Open,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  Readdir,
  Readlink,
  Rename,
  Setattr,
  Unlink,
} from '../../../../src/wire/meta.js';
import { nameOf, type RawClient, serverWorld } from '../../../worlds/server_world.js';

async function oneClient(t: TestContext): Promise<RawClient> {
  const world = await serverWorld(t);
  await world.server();
  return await world.connected();
}

function move(
  from: [Fid, string],
  to: [Fid, string],
  flags = 0,
): Parameters<typeof Rename.request.toArray>[0] {
  return { parent: from[0], name: nameOf(from[1]), newParent: to[0], newName: nameOf(to[1]), flags };
}
function unlinkOf(
  name: string,
  directory = false,
  parent: Fid = ROOT_FID,
): Parameters<typeof Unlink.request.toArray>[0] {
  return { parent, name: nameOf(name), directory };
}
async function names(client: RawClient, fid: Fid = ROOT_FID): Promise<string[]> {
  const { entries } = await client.call(Readdir, { fid, cookie: 0, limit: 100, plus: false, want: 0 });
  return entries.map((entry) => entry.name);
}
async function nlink(client: RawClient, fid: Fid): Promise<number> {
  return (await client.call(Getattr, { fid, want: 0 })).attr.nlink;
}

test('a directory counts its subdirectories, and one with entries is not removed', async (t) => {
  const c = await oneClient(t);
  const a = (await c.mkdir('a')).attr;
  assert.deepEqual([a.nlink, await nlink(c, ROOT_FID)], [2, 3]);
  await c.mkdir('b', a.fid);
  assert.equal(await nlink(c, a.fid), 3);
  assert.equal(await c.errno(Unlink, unlinkOf('a', true)), 'ENOTEMPTY');
  assert.equal(await c.errno(Unlink, unlinkOf('a')), 'EISDIR');
  const { attr, parentAttr } = await c.call(Unlink, unlinkOf('b', true, a.fid));
  assert.deepEqual([attr.nlink, parentAttr.nlink], [0, 2]);
  await c.call(Unlink, unlinkOf('a', true));
  assert.deepEqual(
    [await nlink(c, ROOT_FID), await c.errno(Getattr, { fid: a.fid, want: 0 })],
    [2, 'ESTALE'],
  );
  await c.create('f');
  assert.equal(await c.errno(Unlink, unlinkOf('f', true)), 'ENOTDIR');
  assert.equal(await c.errno(Unlink, unlinkOf('none')), 'ENOENT');
});

test('rename replaces by the rules of rename(2)', async (t) => {
  const c = await oneClient(t);
  const file = (await c.create('file')).attr;
  const dir = (await c.mkdir('dir')).attr;
  const full = (await c.mkdir('full')).attr;
  await c.create('in', { parent: full.fid });
  const empty = (await c.mkdir('empty')).attr;
  const R = ROOT_FID;
  assert.deepEqual(
    {
      fileOverDirectory: await c.errno(Rename, move([R, 'file'], [R, 'dir'])),
      directoryOverFile: await c.errno(Rename, move([R, 'dir'], [R, 'file'])),
      overFull: await c.errno(Rename, move([R, 'dir'], [R, 'full'])),
      missing: await c.errno(Rename, move([R, 'none'], [R, 'x'])),
      belowItself: await c.errno(Rename, move([R, 'full'], [full.fid, 'x'])),
      overItsParent: await c.errno(Rename, move([full.fid, 'in'], [R, 'full'])),
      noReplace: await c.errno(Rename, move([R, 'file'], [R, 'dir'], RENAME_NOREPLACE)),
      bothFlags: await c.errno(Rename, move([R, 'file'], [R, 'dir'], RENAME_NOREPLACE | RENAME_EXCHANGE)),
      whiteout: await c.errno(Rename, move([R, 'file'], [R, 'dir'], 4)),
      exchangeWithNothing: await c.errno(Rename, move([R, 'file'], [R, 'none'], RENAME_EXCHANGE)),
      intoAFile: await c.errno(Rename, move([R, 'dir'], [file.fid, 'x'])),
    },
    {
      fileOverDirectory: 'EISDIR',
      directoryOverFile: 'ENOTDIR',
      overFull: 'ENOTEMPTY',
      missing: 'ENOENT',
      belowItself: 'EINVAL',
      overItsParent: 'ENOTEMPTY',
      noReplace: 'EEXIST',
      bothFlags: 'EINVAL',
      whiteout: 'EINVAL',
      exchangeWithNothing: 'ENOENT',
      intoAFile: 'ENOTDIR',
    },
  );
  const reply = await c.call(Rename, move([R, 'full'], [R, 'empty']));
  assert.deepEqual(
    [reply.attr.fid, reply.otherAttr?.fid, reply.otherAttr?.nlink, reply.parentAttr.nlink, dir.nlink],
    [full.fid, empty.fid, 0, 4, 2],
  );
  assert.deepEqual((await names(c)).sort(), ['dir', 'empty', 'file']);
});

test('a directory that moves takes its link count and its parent along', async (t) => {
  const c = await oneClient(t);
  const a = (await c.mkdir('a')).attr;
  const b = (await c.mkdir('b')).attr;
  const sub = (await c.mkdir('sub', a.fid)).attr;
  const reply = await c.call(Rename, move([a.fid, 'sub'], [b.fid, 'moved']));
  assert.deepEqual([reply.parentAttr.nlink, reply.newParentAttr.nlink], [2, 3]);
  const { parent } = await c.call(Readdir, { fid: sub.fid, cookie: 0, limit: 1, plus: false, want: 0 });
  assert.equal(parent, b.fid);
  assert.equal(await c.errno(Rename, move([ROOT_FID, 'b'], [sub.fid, 'x'])), 'EINVAL');
});

test('exchange swaps entries of different types and their parents', async (t) => {
  const c = await oneClient(t);
  const a = (await c.mkdir('a')).attr;
  const inner = (await c.mkdir('inner', a.fid)).attr;
  const file = (await c.create('file')).attr;
  const reply = await c.call(Rename, move([a.fid, 'inner'], [ROOT_FID, 'file'], RENAME_EXCHANGE));
  assert.deepEqual(
    [reply.attr.fid, reply.otherAttr?.fid, reply.parentAttr.nlink, reply.newParentAttr.nlink],
    [inner.fid, file.fid, 2, 4],
  );
  assert.equal((await c.lookup('inner', a.fid)).attr?.fid, file.fid);
  const { parent } = await c.call(Readdir, { fid: inner.fid, cookie: 0, limit: 1, plus: false, want: 0 });
  assert.equal(parent, ROOT_FID);
  assert.equal(await c.errno(Rename, move([ROOT_FID, 'a'], [ROOT_FID, 'file'], RENAME_EXCHANGE)), 'no error');
});

test('renaming one of two names of an inode to the other leaves both', async (t) => {
  const c = await oneClient(t);
  const file = (await c.create('one')).attr;
  await c.call(Link, { fid: file.fid, parent: ROOT_FID, name: nameOf('two') });
  await c.call(Rename, move([ROOT_FID, 'one'], [ROOT_FID, 'two']));
  assert.deepEqual([(await names(c)).sort(), await nlink(c, file.fid)], [['one', 'two'], 2]);
});

test('NOREPLACE refuses a new name that leads to the same inode', async (t) => {
  const c = await oneClient(t);
  const file = (await c.create('one')).attr;
  await c.call(Link, { fid: file.fid, parent: ROOT_FID, name: nameOf('two') });
  const noReplace = move([ROOT_FID, 'one'], [ROOT_FID, 'two'], RENAME_NOREPLACE);
  assert.equal(await c.errno(Rename, noReplace), 'EEXIST');
  assert.deepEqual([(await names(c)).sort(), await nlink(c, file.fid)], [['one', 'two'], 2]);
});

test('links: directories have none, names are not replaced, an unlinked file gets no name back', async (t) => {
  const c = await oneClient(t);
  const dir = (await c.mkdir('d')).attr;
  const fh = c.newFh();
  const file = (await c.create('f', { fh, flags: 2 })).attr;
  const linkTo = (fid: Fid, name: string) => c.errno(Link, { fid, parent: ROOT_FID, name: nameOf(name) });
  assert.equal(await linkTo(dir.fid, 'x'), 'EPERM');
  assert.equal(await linkTo(file.fid, 'd'), 'EEXIST');
  await c.call(Unlink, unlinkOf('f'));
  assert.equal(await linkTo(file.fid, 'again'), 'ENOENT');
});

test('an O_TMPFILE file has no name, may get one, and is gone at the last close without one', async (t) => {
  const c = await oneClient(t);
  const [one, two] = [c.newFh(), c.newFh()];
  const named = (await c.create(undefined, { fh: one, flags: 2 })).attr;
  const nameless = (await c.create(undefined, { fh: two, flags: 2 })).attr;
  assert.deepEqual([named.nlink, await names(c)], [0, []]);
  const { attr } = await c.call(Link, { fid: named.fid, parent: ROOT_FID, name: nameOf('n') });
  await c.call(Close, { fhs: [one, two] });
  assert.deepEqual([attr.nlink, await names(c), await nlink(c, named.fid)], [1, ['n'], 1]);
  assert.equal(await c.errno(Getattr, { fid: nameless.fid, want: 0 }), 'ESTALE');
});

test('an unlinked file lives until its last handle is closed', async (t) => {
  const c = await oneClient(t);
  const [one, two] = [c.newFh(), c.newFh()];
  const { attr } = await c.create('f', { fh: one, flags: 2 });
  await c.call(Open, { fid: attr.fid, fh: two, flags: 0, want: 0 });
  assert.equal((await c.call(Unlink, unlinkOf('f'))).attr.nlink, 0);
  await c.call(Close, { fhs: [one] });
  assert.equal(await nlink(c, attr.fid), 0);
  await c.call(Close, { fhs: [two] });
  assert.equal(await c.errno(Getattr, { fid: attr.fid, want: 0 }), 'ESTALE');
});

test('a file replaced by rename stays while it is open', async (t) => {
  const c = await oneClient(t);
  const fh = c.newFh();
  const old = (await c.create('old', { fh, flags: 0 })).attr;
  await c.create('new');
  await c.call(Rename, move([ROOT_FID, 'new'], [ROOT_FID, 'old']));
  assert.equal(await nlink(c, old.fid), 0);
  await c.call(Close, { fhs: [fh] });
  assert.equal(await c.errno(Getattr, { fid: old.fid, want: 0 }), 'ESTALE');
});

test('nothing is made in a directory that was removed while open', async (t) => {
  const c = await oneClient(t);
  const dir = (await c.mkdir('d')).attr;
  await c.call(Open, { fid: dir.fid, fh: c.newFh(), flags: 0, want: 0 });
  await c.call(Unlink, unlinkOf('d', true));
  await assert.rejects(c.create('x', { parent: dir.fid }), { code: 'ENOENT' });
  await c.create('f');
  assert.equal(await c.errno(Rename, move([ROOT_FID, 'f'], [dir.fid, 'f'])), 'ENOENT');
});

test('create: exclusive or not, and the same create twice', async (t) => {
  const c = await oneClient(t);
  const { attr } = await c.create('f', { fh: c.newFh(), flags: 2 });
  await c.call(
    Write,
    { fid: attr.fid, offset: 0, mtime: { sec: 5, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.from('abc')] },
  );
  await assert.rejects(c.create('f'), { code: 'EEXIST' });
  const opened = await c.create('f', { exclusive: false, fh: c.newFh(), flags: 2 });
  assert.deepEqual([opened.existed, opened.attr.fid, opened.attr.sizeBytes], [true, attr.fid, 3]);
  const cut = await c.create('f', { exclusive: false, fh: c.newFh(), flags: 2 | O_TRUNC });
  assert.deepEqual([cut.existed, cut.attr.sizeBytes], [true, 0]);
  const again = await c.create('f', { fid: attr.fid, exclusive: true });
  assert.deepEqual([again.existed, again.attr.fid], [false, attr.fid]);
  await c.mkdir('d');
  await assert.rejects(c.create('d', { exclusive: false, fh: c.newFh(), flags: 2 }), { code: 'EISDIR' });
  await assert.rejects(c.create('d', { exclusive: true, mode: 0o040755 }), { code: 'EEXIST' });
  await assert.rejects(c.create('bad', { fid: 7 as Fid }), { code: 'EPROTO' });
  await assert.rejects(c.create('bad', { fid: attr.fid }), { code: 'EPROTO' });
});

test('special files and symbolic links keep what they are made of', async (t) => {
  const c = await oneClient(t);
  const target = Buffer.from('some/where');
  const link = (await c.create('l', { mode: 0o120777, target })).attr;
  const device = (await c.create('dev', { mode: 0o020600, rdev: 0x0103 })).attr;
  const fifo = (await c.create('fifo', { mode: 0o010600, rdev: 9 })).attr;
  assert.deepEqual([link.sizeBytes, device.rdev, fifo.rdev], [target.length, 0x0103, 0]);
  assert.deepEqual(Buffer.from((await c.call(Readlink, { fid: link.fid })).target), target);
  assert.equal(await c.errno(Readlink, { fid: fifo.fid }), 'EINVAL');
  await assert.rejects(c.create('l', { exclusive: false, fh: c.newFh(), flags: 2 }), { code: 'ELOOP' });
});

test('a set-group-id directory passes its group on, and the bit to directories', async (t) => {
  const c = await oneClient(t);
  const dir = (await c.mkdir('d')).attr;
  await c.call(Setattr, { fid: dir.fid, mode: 0o2775, gid: 77 });
  const file = (await c.create('f', { parent: dir.fid })).attr;
  const sub = (await c.mkdir('s', dir.fid)).attr;
  assert.deepEqual([file.gid, file.mode & S_ISGID, sub.gid, sub.mode & S_ISGID], [77, 0, 77, S_ISGID]);
});

test('names of any bytes work, and readdir goes on where it stopped', async (t) => {
  const c = await oneClient(t);
  const dir = (await c.mkdir('d')).attr;
  const long = '\u00ff'.repeat(255);
  const made = ['\u0001', long, 'plain', ' '];
  for (const name of made) await c.create(name, { parent: dir.fid });
  const seen: string[] = [];
  for (let cookie = 0, end = false; !end; ) {
    const page = await c.call(Readdir, { fid: dir.fid, cookie, limit: 2, plus: true, want: 0 });
    for (const entry of page.entries) {
      seen.push(entry.name);
      assert.equal(entry.attr?.fid, entry.fid);
      cookie = entry.cookie;
    }
    end = page.end;
  }
  assert.deepEqual(seen, made);
  assert.equal((await c.lookup(long, dir.fid)).attr?.nlink, 1);
});

test('a directory that does not fit one reply is listed in several', async (t) => {
  const c = await oneClient(t);
  const dir = (await c.mkdir('d')).attr;
  const made = Array.from(
    { length: 1500 },
    (_, index) => `${String(index).padStart(5, '0')}${'\u00fe'.repeat(250)}`,
  );
  await Promise.all(made.map((name) => c.create(name, { parent: dir.fid })));
  const seen: string[] = [];
  let pages = 0;
  for (let cookie = 0, end = false; !end; pages += 1) {
    const page = await c.call(Readdir, { fid: dir.fid, cookie, limit: 10_000, plus: true, want: 2 | 4 });
    for (const entry of page.entries) {
      seen.push(entry.name);
      cookie = entry.cookie;
    }
    end = page.end;
  }
  assert.deepEqual([seen, pages > 1], [made, true]);
});
