/**
 * Sessions of squashed clients, spoken to without any kernel in between: each rule of operations/permits.ts, and each way around
 * it that a client without scruples would try.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_PATH, O_TRUNC } from '../../../../src/base/attr.js';
import type { Fid } from '../../../../src/base/ids.js';
import { ACL_ACCESS, encodeAcl, TAG } from '../../../../src/rules/acl.js';
import { O_TMPFILE_BIT } from '../../../../src/server/export/open_table.js';
import { checkedOpcodes } from '../../../../src/server/operations/permits.js';
import { Batch } from '../../../../src/wire/batch.js';
import { CopyRange, Fallocate, Read, Seek, Write } from '../../../../src/wire/data.js';
import { FLAG_RECOVERY } from '../../../../src/wire/header.js';
import { Cancel, Enqueue, TestFlock } from '../../../../src/wire/lock.js';
import {
  Close,
  Getattr,
  Getxattr,
  Link,
  Listxattr,
  Lookup,
  Open,
  RENAME_EXCHANGE,
  RENAME_WHITEOUT,
  Readdir,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Unlink,
  WANT_ATTR,
  WANT_CONTENT,
  WANT_DATA_READ,
  WANT_DATA_WRITE,
  WANT_OWN,
  WANT_OWN_FILES,
  WANT_OWN_PARENT,
  WANT_PARENT,
} from '../../../../src/wire/meta.js';
import { FAMILIES } from '../../../../src/wire/operations.js';
import { FEATURE, ReplayLocks, ReplayOpens } from '../../../../src/wire/session.js';
import { nameOf, type RawClient } from '../../../worlds/server_world.js';
import { OTHER, ROOT, squashedWorld, USER } from '../../../worlds/squashed.js';

const RDONLY = 0;
const WRONLY = 1;
const RDWR = 2;
const ROOT_DIR = 1 as Fid;
const WANT_ALL = WANT_PARENT | WANT_ATTR | WANT_DATA_READ | WANT_DATA_WRITE | WANT_CONTENT;
const FLOCK = { kind: 'flock', owner: '0000000000000001', pid: 1, exclusive: true, start: 0 } as const;

async function opens(
  client: RawClient,
  fid: Fid,
  flags: number,
  caller: object | undefined,
): Promise<string> {
  const asked = { fid, fh: client.newFh(), flags, want: 0, caller } as never;
  return client.errno(Open, asked);
}

test('every request that a client may send has a rule', () => {
  const rules = checkedOpcodes();
  const sent = FAMILIES.filter(({ name }) => name !== 'admin').flatMap(({ operations }) => operations);
  const fromServer = ['CONNECT', 'EVICTED', 'BAST', 'CAST', 'GLIMPSE', 'NAMELESS', 'GONE'];
  const without = sent.filter(({ opcode, name }) => !rules.has(opcode) && !fromServer.includes(name));
  assert.deepEqual(
    without.map(({ name }) => name),
    [],
  );
});

test('the session agrees on nothing that the server could not check', async (t) => {
  const { client, directory } = await squashedWorld(t);
  const web = await client();
  const { features, restricted } = await web.connect({ secret: `secret of ${web.name}` });
  assert.equal(features & (FEATURE.batch | FEATURE.localOpens | FEATURE.ownFiles), 0);
  assert.notEqual(features & FEATURE.replay, 0);
  assert.deepEqual(restricted, { readOnly: false, squashRoot: true });
  await web.activate();
  const made = { parent: await directory('tmp', 0o777), mode: 0o040755, caller: USER };
  const { locks } = await web.create('d', { ...made, want: WANT_OWN | WANT_OWN_PARENT | WANT_OWN_FILES });
  assert.deepEqual(locks, []);
});

test('a file of root that others may not read is closed to all, by every way', async (t) => {
  const { client, file, root } = await squashedWorld(t);
  const secret = await file('secret', 0o600);
  await root.call(
    Write,
    { fid: secret, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.from('top')] },
  );
  const web = await client();
  for (const caller of [USER, ROOT, undefined, { uid: 65_534, gid: 0 }, { uid: 5, gid: 5, groups: [0] }]) {
    for (const flags of [RDONLY, WRONLY, RDWR, RDONLY | O_TRUNC]) {
      assert.equal(await opens(web, secret, flags, caller), 'EACCES');
    }
    assert.equal(await web.errno(Enqueue, { type: 'data', fid: secret, mode: 'PR', caller }), 'EACCES');
    assert.equal(await web.errno(Enqueue, { type: 'data', fid: secret, mode: 'PW', caller }), 'EACCES');
    const looked = await web.call(Lookup, {
      parent: ROOT_DIR,
      name: nameOf('secret'),
      want: WANT_ALL,
      caller,
    });
    assert.deepEqual([looked.content, looked.locks.filter(({ type }) => type === 'data')], [undefined, []]);
    const listed = await web.call(Readdir, {
      fid: ROOT_DIR,
      cookie: 0,
      limit: 9,
      plus: true,
      want: WANT_ALL,
      caller,
    });
    assert.deepEqual(
      [listed.entries.map(({ content }) => content), listed.locks.filter(({ type }) => type === 'data')],
      [[undefined], []],
    );
    assert.equal(await web.errno(Setattr, { fid: secret, sizeBytes: 0, caller }), 'EACCES');
    assert.equal(await web.errno(Setattr, { fid: secret, mode: 0o666, caller }), 'EPERM');
    assert.equal(await web.errno(Setattr, { fid: secret, uid: 1000, caller }), 'EPERM');
    assert.equal(await web.errno(Setattr, { fid: secret, gid: 1000, caller }), 'EPERM');
    assert.equal(await web.errno(Setattr, { fid: secret, killSuidgid: true, caller }), 'EACCES');
    assert.equal(await web.errno(Setattr, { fid: secret, mtimeNow: true, caller }), 'EACCES');
    assert.equal(await web.errno(Setattr, { fid: secret, mtime: { sec: 1, nsec: 0 }, caller }), 'EPERM');
  }
  const { locks } = await web.call(Getattr, { fid: secret, want: WANT_ALL });
  assert.deepEqual(
    locks.filter(({ type }) => type === 'data'),
    [],
  );
  assert.equal(await web.errno(Read, { fid: secret, offset: 0, length: 3 }), 'EPERM');
  assert.equal(
    await web.errno(Write, { fid: secret, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 }),
    'EPERM',
  );
  assert.equal(await web.errno(Seek, { fid: secret, offset: 0, what: 'data' }), 'EPERM');
  assert.equal(await web.errno(Fallocate, { fid: secret, mode: 0, offset: 0, length: 9 }), 'EPERM');
  assert.equal(await web.errno(Enqueue, { type: 'flock', fid: secret, mode: 'EX', flock: FLOCK }), 'EPERM');
  assert.equal(await web.errno(TestFlock, { fid: secret, flock: FLOCK }), 'EPERM');
  const { attr } = await web
    .create('mine', { mode: 0o100600, caller: undefined, fh: web.newFh(), flags: RDWR, parent: ROOT_DIR })
    .catch(() => ({ attr: { fid: 0 as Fid } }));
  assert.equal(attr.fid, 0, 'nobody makes names in the root directory');
  // By what it might claim to have had.
  assert.equal(
    await web.errno(ReplayOpens, { opens: [{ fid: secret, fh: web.newFh(), flags: RDWR }] }),
    'EPROTO',
  );
  assert.equal(
    await web.errno(ReplayLocks, { locks: [{ fid: secret, type: 'data', mode: 'PR' }] }),
    'EPROTO',
  );
  assert.equal(await web.errno(Batch, { operations: [], grantUsed: 0 }), 'EPROTO');
  // A CREATE that names the file's own FID looks like one that was sent again.
  const again = { fid: secret, fh: web.newFh(), flags: RDWR, caller: USER };
  await assert.rejects(web.create('secret', again), { code: 'EACCES' });
  await assert.rejects(web.create('secret', { ...again, exclusive: false }), { code: 'EACCES' });
});

test('a closed directory of root is not opened by an open that would write it', async (t) => {
  const { client, directory } = await squashedWorld(t);
  const closed = await directory('closed', 0o700);
  await directory('within', 0o755, { parent: closed });
  const web = await client();
  const listing = { fid: closed, cookie: 0, limit: 9, plus: true, want: 0, caller: USER };
  for (const flags of [WRONLY, RDWR, RDONLY | O_TRUNC, RDWR | O_TRUNC]) {
    assert.equal(await opens(web, closed, flags, USER), 'EISDIR');
    // A CREATE that names the directory's own FID looks like one that was sent again.
    const again = { fid: closed, mode: 0o100644, fh: web.newFh(), flags, caller: USER };
    for (const exclusive of [true, false]) {
      await assert.rejects(web.create('closed', { ...again, exclusive }), { code: 'EISDIR' });
    }
    assert.equal(await web.errno(Readdir, listing), 'EACCES');
    assert.equal(await web.errno(Setattr, { fid: closed, mtimeNow: true, caller: USER }), 'EACCES');
  }
});

test('a handle that allows nothing (O_PATH) allows nothing', async (t) => {
  const { client, file } = await squashedWorld(t);
  const fid = await file('secret', 0o600);
  const web = await client();
  assert.equal(await opens(web, fid, O_PATH, USER), 'no error');
  assert.equal(await web.errno(Enqueue, { type: 'flock', fid, mode: 'EX', flock: FLOCK }), 'EPERM');
  assert.equal(await web.errno(TestFlock, { fid, flock: FLOCK }), 'EPERM');
  assert.equal(await web.errno(Seek, { fid, offset: 0, what: 'data' }), 'EPERM');
  assert.equal(await web.errno(Read, { fid, offset: 0, length: 1 }), 'EPERM');
});

test('only a file that was made without a name gets its first name by LINK, and only from its owner', async (t) => {
  const { client, directory, file, root } = await squashedWorld(t);
  const dir = await directory('tmp', 0o777);
  const old = await file('old', 0o4755);
  await root.call(Open, { fid: old, fh: root.newFh(), flags: RDONLY, want: 0 });
  const web = await client();
  assert.equal(await opens(web, old, RDONLY | O_TMPFILE_BIT, USER), 'no error');
  const reads = { fid: web.newFid(), exclusive: false, fh: web.newFh(), flags: RDONLY | O_TMPFILE_BIT };
  await web.create('old', { ...reads, caller: USER });
  await root.call(Unlink, { parent: ROOT_DIR, name: nameOf('old'), directory: false });
  const link = { fid: old, parent: dir, name: nameOf('again') };
  assert.equal(await web.errno(Link, { ...link, caller: USER }), 'EPERM');
  const own = await file('own', 0o644, { uid: 1000 });
  assert.equal(await opens(web, own, RDONLY | O_TMPFILE_BIT, USER), 'no error');
  await root.call(Unlink, { parent: ROOT_DIR, name: nameOf('own'), directory: false });
  assert.equal(await web.errno(Link, { ...link, fid: own, caller: USER }), 'ENOENT');
  const { attr: made } = await web.create(undefined, {
    parent: dir,
    fh: web.newFh(),
    flags: RDWR,
    caller: USER,
  });
  const first = { fid: made.fid, parent: dir, name: nameOf('first') };
  assert.equal(await web.errno(Link, { ...first, caller: OTHER }), 'EPERM');
  assert.equal(await web.errno(Link, { ...first, caller: USER }), 'no error');
});

test('only a client that recovers names the turn of an application lock', async (t) => {
  const { client, file } = await squashedWorld(t);
  const fid = await file('f', 0o644);
  const web = await client();
  assert.equal(await opens(web, fid, RDONLY, USER), 'no error');
  const lock = { type: 'flock', fid, mode: 'EX', flock: FLOCK } as const;
  for (const sequence of [1, 2 ** 52]) {
    assert.equal(await web.errno(Enqueue, { ...lock, sequence }), 'EPROTO');
    const recovers = web.call(Enqueue, { ...lock, sequence }, { flags: FLAG_RECOVERY });
    await assert.rejects(recovers, { code: 'EPROTO' });
  }
  assert.equal((await web.call(Enqueue, lock)).sequence, 1);
});

test('copies need a handle on both files', async (t) => {
  const { client, file, directory } = await squashedWorld(t);
  const secret = await file('secret', 0o600);
  const dir = await directory('tmp', 0o777);
  const web = await client();
  const { attr } = await web.create('mine', { parent: dir, fh: web.newFh(), flags: RDWR, caller: USER });
  const range = { fromOffset: 0, toOffset: 0, length: 9 };
  assert.equal(await web.errno(CopyRange, { ...range, fromFid: secret, toFid: attr.fid }), 'EPERM');
  assert.equal(await web.errno(CopyRange, { ...range, fromFid: attr.fid, toFid: secret }), 'EPERM');
  const { attr: other } = await web.create('other', {
    parent: dir,
    fh: web.newFh(),
    flags: RDWR,
    caller: USER,
  });
  assert.equal(await web.errno(CopyRange, { ...range, fromFid: attr.fid, toFid: other.fid }), 'no error');
});

test('handles allow what they were opened for, whatever becomes of the file', async (t) => {
  const { client, file, root } = await squashedWorld(t);
  const fid = await file('f', 0o666);
  const web = await client();
  const [reads, writes] = [web.newFh(), web.newFh()];
  await web.call(Open, { fid, fh: reads, flags: RDONLY, want: 0, caller: USER });
  await root.call(Setattr, { fid, mode: 0o600 });
  assert.equal(await opens(web, fid, RDONLY, USER), 'EACCES');
  assert.equal(await web.errno(Enqueue, { type: 'data', fid, mode: 'PW' }), 'EACCES');
  assert.equal(await web.errno(Setattr, { fid, sizeBytes: 0 }), 'EACCES');
  await web.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  await web.call(Read, { fid, offset: 0, length: 1 });
  await root.call(Setattr, { fid, mode: 0o622 });
  await web.call(Open, { fid, fh: writes, flags: WRONLY, want: 0, caller: USER });
  await web.call(Close, { fhs: [reads] });
  await root.call(Setattr, { fid, mode: 0o600 });
  await web.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  await web.call(Setattr, { fid, sizeBytes: 5, killSuidgid: true });
  await web.call(Fallocate, { fid, mode: 0, offset: 0, length: 9 });
  await web.call(
    Write,
    { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.from('x')] },
  );
  await web.call(Close, { fhs: [writes] });
  assert.equal(await web.errno(Fallocate, { fid, mode: 0, offset: 0, length: 9 }), 'EPERM');
});

test('who may write and not read gets a lock to write, and no content', async (t) => {
  const { client, file } = await squashedWorld(t);
  const fid = await file('log', 0o622);
  const web = await client();
  const want = WANT_DATA_WRITE | WANT_DATA_READ | WANT_CONTENT;
  const { locks } = await web.call(Open, { fid, fh: web.newFh(), flags: WRONLY, want, caller: USER });
  assert.deepEqual(
    locks.map(({ type, mode }) => `${type} ${mode}`),
    ['data PW'],
  );
  await web.call(
    Write,
    { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.from('x')] },
  );
  assert.equal(await web.errno(Read, { fid, offset: 0, length: 1 }), 'EPERM');
  const looked = await web.call(Lookup, { parent: ROOT_DIR, name: nameOf('log'), want, caller: USER });
  assert.equal(looked.content, undefined);
  assert.equal(await web.errno(Seek, { fid, offset: 0, what: 'data' }), 'no error');
});

test('a program that may only be executed can be opened to be read, as over NFS', async (t) => {
  const { client, file } = await squashedWorld(t);
  const fid = await file('tool', 0o711);
  const web = await client();
  assert.deepEqual(
    [await opens(web, fid, RDONLY, USER), await opens(web, fid, RDWR, USER)],
    ['no error', 'EACCES'],
  );
});

test('names need search and write permission, and the sticky bit is kept', async (t) => {
  const { client, directory, file, root } = await squashedWorld(t);
  const closed = await directory('closed', 0o700);
  const shown = await directory('shown', 0o755);
  const tmp = await directory('tmp', 0o1777);
  const open = await directory('open', 0o777);
  for (const parent of [closed, shown, tmp, open]) await file('of-root', 0o644, { parent });
  const web = await client();
  const { attr: mine } = await web.create('mine', { parent: tmp, caller: USER });
  const { attr: moved } = await web.create('mine', { parent: open, caller: USER });
  const caller = USER;
  const name = nameOf('of-root');
  const codes = async (parent: Fid): Promise<string[]> => [
    await web.errno(Lookup, { parent, name, want: 0, caller }),
    await web.errno(Lookup, { parent, name: nameOf('none'), want: 0, caller }),
    await web.errno(Readdir, { fid: parent, cookie: 0, limit: 9, plus: true, want: 0, caller }),
    await web.create('new', { parent, caller }).then(
      () => 'made',
      (error) => error.code,
    ),
    await web.create(undefined, { parent, caller, fh: web.newFh(), flags: RDWR }).then(
      () => 'made',
      (error) => error.code,
    ),
    await web.errno(Link, { fid: mine.fid, parent, name: nameOf('linked'), caller }),
    await web.errno(Unlink, { parent, name: nameOf('none'), directory: false, caller }),
    await web.errno(Rename, { parent, name, newParent: open, newName: nameOf('got'), flags: 0, caller }),
    await web.errno(Unlink, { parent, name: nameOf('of-root'), directory: false, caller }),
  ];
  assert.deepEqual(await codes(closed), Array(9).fill('EACCES'));
  assert.deepEqual(await codes(shown), [
    'no error',
    'no error',
    'no error',
    'EACCES',
    'EACCES',
    'EACCES',
    'ENOENT',
    'EACCES',
    'EACCES',
  ]);
  assert.deepEqual(await codes(tmp), [
    'no error',
    'no error',
    'no error',
    'made',
    'made',
    'no error',
    'ENOENT',
    'EPERM',
    'EPERM',
  ]);
  assert.deepEqual(await codes(open), [
    'no error',
    'no error',
    'no error',
    'made',
    'made',
    'no error',
    'ENOENT',
    'no error',
    'ENOENT',
  ]);
  // Over what is another user's, and exchanged with it.
  const onto = { parent: open, name: nameOf('mine'), newParent: tmp, newName: name, caller };
  assert.equal(await web.errno(Rename, { ...onto, flags: 0 }), 'EPERM');
  assert.equal(await web.errno(Rename, { ...onto, flags: RENAME_EXCHANGE }), 'EPERM');
  assert.equal(await web.errno(Rename, { ...onto, newName: nameOf('linked'), flags: 0 }), 'no error');
  assert.equal((await root.lookup('linked', tmp)).attr?.fid, moved.fid);
  assert.equal(
    await web.errno(Unlink, { parent: tmp, name: nameOf('linked'), directory: false, caller: OTHER }),
    'EPERM',
  );
  assert.equal(
    await web.errno(Unlink, { parent: tmp, name: nameOf('linked'), directory: false, caller: ROOT }),
    'EPERM',
  );
  assert.equal(
    await web.errno(Unlink, { parent: tmp, name: nameOf('linked'), directory: false, caller }),
    'no error',
  );
  assert.equal(
    await web.errno(Unlink, { parent: ROOT_DIR, name: nameOf('tmp'), directory: true, caller }),
    'EACCES',
  );
});

test('a directory of another user does not get a new parent', async (t) => {
  const { client, directory } = await squashedWorld(t);
  const [from, to] = [await directory('from', 0o777), await directory('to', 0o777)];
  await directory('dir', 0o755, { parent: from });
  const web = await client();
  const move = { parent: from, name: nameOf('dir'), newName: nameOf('dir2'), flags: 0, caller: USER };
  assert.equal(await web.errno(Rename, { ...move, newParent: to }), 'EACCES');
  assert.equal(await web.errno(Rename, { ...move, newParent: from }), 'no error');
});

test('what is made belongs to who makes it', async (t) => {
  const { client, directory } = await squashedWorld(t);
  const dir = await directory('tmp', 0o777);
  const shared = await directory('shared', 0o2777, { gid: 50 });
  const web = await client();
  const owner = async (more: object): Promise<unknown[]> => {
    const { attr } = await web.create(`f${web.newFh()}`, { parent: dir, uid: 0, gid: 0, ...more });
    return [attr.uid, attr.gid, attr.mode & 0o7777];
  };
  assert.deepEqual(await owner({ caller: USER }), [1000, 1000, 0o644]);
  assert.deepEqual(await owner({ caller: ROOT }), [65_534, 65_534, 0o644]);
  assert.deepEqual(await owner({}), [65_534, 65_534, 0o644]);
  assert.deepEqual(await owner({ caller: { uid: 0xffff_ffff, gid: 0xffff_ffff } }), [65_534, 65_534, 0o644]);
  assert.deepEqual(await owner({ caller: USER, parent: shared, mode: 0o102755 }), [1000, 50, 0o755]);
  const member = { ...USER, groups: [50] };
  assert.deepEqual(await owner({ caller: member, parent: shared, mode: 0o102755 }), [1000, 50, 0o2755]);
  assert.deepEqual(await owner({ caller: USER, parent: shared, mode: 0o040755 }), [1000, 50, 0o2755]);
  assert.deepEqual(await owner({ caller: USER, mode: 0o104755 }), [1000, 1000, 0o4755]);
  await assert.rejects(owner({ caller: ROOT, mode: 0o104755 }), { code: 'EPERM' });
  assert.deepEqual(await owner({ caller: ROOT, mode: 0o042755 }), [65_534, 65_534, 0o2755]);
  const whiteoutFid = web.newFid();
  await web.create('x', { parent: dir, caller: USER });
  const { whiteoutAttr } = await web.call(Rename, {
    parent: dir,
    name: nameOf('x'),
    newParent: dir,
    newName: nameOf('y'),
    flags: RENAME_WHITEOUT,
    whiteoutFid,
    uid: 0,
    gid: 0,
    caller: USER,
  });
  assert.deepEqual([whiteoutAttr?.uid, whiteoutAttr?.gid], [1000, 1000]);
});

test('only whiteouts are made of devices', async (t) => {
  const { client, directory } = await squashedWorld(t);
  const parent = await directory('tmp', 0o777);
  const web = await client();
  const made = async (mode: number, rdev: number): Promise<string> =>
    web.create(`n${web.newFh()}`, { parent, mode: mode | 0o600, rdev, caller: USER }).then(
      () => 'made',
      (error) => error.code,
    );
  assert.deepEqual(
    [
      await made(0o060000, 0x801),
      await made(0o060000, 0),
      await made(0o020000, 0x103),
      await made(0o020000, 0),
      await made(0o010000, 0),
    ],
    ['EPERM', 'EPERM', 'EPERM', 'made', 'made'],
  );
});

test('attributes change as their owner may change them', async (t) => {
  const { client, file, root } = await squashedWorld(t);
  const fid = await file('f', 0o644, { uid: 1000, gid: 60 });
  const web = await client();
  const code = (change: object): Promise<string> => web.errno(Setattr, { fid, ...change } as never);
  const mode = async (): Promise<number> => (await root.call(Getattr, { fid, want: 0 })).attr.mode & 0o7777;
  assert.equal(await code({ mode: 0o2755, caller: USER }), 'no error');
  assert.equal(await mode(), 0o755, 'who is not in the group sets no set-group-id bit');
  assert.equal(await code({ mode: 0o6755, caller: { ...USER, groups: [60] } }), 'no error');
  assert.equal(await mode(), 0o6755);
  assert.equal(await code({ mode: 0o644, caller: OTHER }), 'EPERM');
  assert.equal(await code({ uid: 1001, caller: USER }), 'EPERM');
  assert.equal(await code({ uid: 1000, caller: USER }), 'no error');
  assert.equal(await mode(), 0o755, 'chown takes the set-id bits');
  assert.equal(await code({ gid: 70, caller: USER }), 'EPERM');
  assert.equal(await code({ gid: 0, caller: { ...USER, groups: [0] } }), 'EPERM');
  assert.equal(await code({ gid: 70, caller: { ...USER, groups: [70] } }), 'no error');
  assert.equal(await code({ mtime: { sec: 5, nsec: 0 }, caller: USER }), 'no error');
  assert.equal(await code({ ctime: { sec: 5, nsec: 0 }, caller: OTHER }), 'EPERM');
  assert.equal(await code({ atimeNow: true, caller: OTHER }), 'EACCES');
  await root.call(Setattr, { fid, mode: 0o4777 });
  assert.equal(await code({ atimeNow: true, caller: OTHER }), 'no error');
  assert.equal(await code({ sizeBytes: 3, caller: OTHER }), 'no error');
  assert.equal(await mode(), 0o777, 'a truncate takes the set-id bits');
  const nobodys = await file('n', 0o644, { uid: 65_534 });
  assert.equal(await web.errno(Setattr, { fid: nobodys, mode: 0o4755, caller: ROOT }), 'EPERM');
  assert.equal(await web.errno(Setattr, { fid: nobodys, mode: 0o755, caller: ROOT }), 'no error');
});

test('who writes to a set-id file takes its bits away, and other clients hear of it', async (t) => {
  const { client, file, root } = await squashedWorld(t);
  const fid = await file('suid', 0o4777);
  const { locks } = await root.call(Getattr, { fid, want: WANT_ATTR });
  assert.equal(locks.length, 1);
  const web = await client();
  web.glimpse = { sizeBytes: 1, mtime: { sec: 1, nsec: 0 } };
  await web.call(Open, { fid, fh: web.newFh(), flags: WRONLY, want: 0, caller: USER });
  await web.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  root.basts.length = 0;
  await web.call(
    Write,
    { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 },
    { bulk: [Buffer.from('x')] },
  );
  assert.deepEqual(
    root.basts.map(({ handle }) => handle),
    [locks[0]?.handle],
  );
  assert.equal((await root.call(Getattr, { fid, want: 0 })).attr.mode & 0o7777, 0o777);
  await root.call(Setattr, { fid, mode: 0o4777 });
  await web.call(Open, { fid, fh: web.newFh(), flags: WRONLY | O_TRUNC, want: 0, caller: USER });
  assert.equal((await root.call(Getattr, { fid, want: 0 })).attr.mode & 0o7777, 0o777);
  await root.call(Setattr, { fid, mode: 0o6777 });
  await web.call(Fallocate, { fid, mode: 0, offset: 0, length: 9 });
  assert.equal((await root.call(Getattr, { fid, want: 0 })).attr.mode & 0o7777, 0o777);
});

test("extended attributes: trusted and security are root's, ACLs the owner's, user follows the mode", async (t) => {
  const { client, file, directory, root } = await squashedWorld(t);
  const fid = await file('f', 0o644, { uid: 1000 });
  const sticky = await directory('sticky', 0o1777);
  const fifo = await file('fifo', 0o666, { mode: 0o010666 });
  for (const name of ['user.a', 'trusted.a', 'security.a']) {
    await root.call(Setxattr, { fid, name, value: Buffer.from('v'), flags: 0 });
  }
  const web = await client();
  const value = Buffer.from('v');
  const acl = encodeAcl([
    { tag: TAG.userObj, perm: 6, id: 0xffff_ffff },
    { tag: TAG.user, perm: 6, id: 1001 },
    { tag: TAG.groupObj, perm: 0, id: 0xffff_ffff },
    { tag: TAG.mask, perm: 6, id: 0xffff_ffff },
    { tag: TAG.other, perm: 0, id: 0xffff_ffff },
  ]);
  const get = (name: string, caller: object): Promise<string> =>
    web.errno(Getxattr, { fid, name, caller } as never);
  const set = (name: string, caller: object, to: Buffer = value, of = fid): Promise<string> =>
    web.errno(Setxattr, { fid: of, name, value: to, flags: 0, caller } as never);
  assert.deepEqual(
    [await get('trusted.a', USER), await get('security.a', OTHER), await get('user.a', OTHER)],
    ['ENODATA', 'no error', 'no error'],
  );
  assert.deepEqual([...(await web.call(Listxattr, { fid })).names].sort(), ['security.a', 'user.a']);
  assert.deepEqual(
    [
      await set('trusted.a', USER),
      await set('security.a', USER),
      await set('security.capability', ROOT),
      await set('user.a', OTHER),
      await set('user.a', USER),
    ],
    ['EPERM', 'EPERM', 'EPERM', 'EACCES', 'no error'],
  );
  assert.deepEqual(
    [await set('user.b', OTHER, value, sticky), await set('user.b', OTHER, value, fifo)],
    ['EPERM', 'EPERM'],
  );
  assert.deepEqual(
    [await set(ACL_ACCESS, OTHER, acl), await opens(web, fid, RDWR, OTHER)],
    ['EPERM', 'EACCES'],
  );
  await root.call(Setattr, { fid, mode: 0o2664 });
  assert.equal(await set(ACL_ACCESS, USER, acl), 'no error');
  assert.equal(
    (await root.call(Getattr, { fid, want: 0 })).attr.mode & 0o7777,
    0o660,
    'not in the group: no set-group-id',
  );
  assert.deepEqual(
    [await opens(web, fid, RDWR, OTHER), await opens(web, fid, RDONLY, { uid: 7, gid: 7 })],
    ['no error', 'EACCES'],
  );
  assert.deepEqual(
    [
      await web.errno(Removexattr, { fid, name: ACL_ACCESS, caller: OTHER }),
      await web.errno(Removexattr, { fid, name: 'trusted.a', caller: USER }),
    ],
    ['EPERM', 'EPERM'],
  );
});

test('a permission that goes while the operation waits for a lock does not count', async (t) => {
  const { world, client, directory, root } = await squashedWorld(t);
  const dir = await directory('dir', 0o777);
  const web = await client();
  const slow = await world.connected('slow');
  const { locks } = await slow.call(Getattr, { fid: dir, want: WANT_ATTR });
  slow.yields = false;
  const changed = root.call(Setattr, { fid: dir, mode: 0o755 });
  await root.time.until('it is called back', () => slow.basts.length > 0);
  const codes = ['f', undefined].map((name) =>
    web.create(name, { parent: dir, caller: USER, fh: web.newFh(), flags: RDWR }).then(
      () => 'made',
      (error) => error.code,
    ),
  );
  await slow.call(Cancel, { handles: locks.map(({ handle }) => handle) });
  await changed;
  assert.deepEqual(await Promise.all(codes), ['EACCES', 'EACCES']);
});

test('a lock on content that is waited for is not granted once the permission is gone', async (t) => {
  const { client, file, root } = await squashedWorld(t);
  const fid = await file('f', 0o666);
  const { handle } = await root.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  root.yields = false;
  const web = await client();
  const asked = web.errno(Enqueue, { type: 'data', fid, mode: 'PR', caller: USER });
  await root.time.until('it is called back', () => root.basts.length > 0);
  await root.call(Setattr, { fid, mode: 0o600 });
  await root.call(Cancel, { handles: [handle] });
  assert.equal(await asked, 'EACCES');
});

test("a read-only session changes nothing, and is in nobody's way", async (t) => {
  for (const squashRoot of [true, false]) {
    const { client, file, directory } = await squashedWorld(t, { readOnly: true, squashRoot });
    const fid = await file('f', 0o666);
    const dir = await directory('d', 0o777);
    await file('g', 0o666, { parent: dir });
    const web = await client();
    const caller = USER;
    const name = nameOf('g');
    const made = (more: object): Promise<string> =>
      web.create('new', { parent: dir, caller, ...more }).then(
        () => 'made',
        (error) => error.code,
      );
    assert.deepEqual(
      [
        await web.errno(Setattr, { fid, mtimeNow: true, caller }),
        await web.errno(Unlink, { parent: dir, name, directory: false, caller }),
        await web.errno(Rename, {
          parent: dir,
          name,
          newParent: dir,
          newName: nameOf('h'),
          flags: 0,
          caller,
        }),
        await web.errno(Link, { fid, parent: dir, name: nameOf('h'), caller }),
        await web.errno(Setxattr, { fid, name: 'user.a', value: Buffer.from('v'), flags: 0, caller }),
        await web.errno(Removexattr, { fid, name: 'user.a', caller }),
        await web.errno(Write, { fid, offset: 0, mtime: { sec: 1, nsec: 0 }, grantUsed: 0 }),
        await web.errno(Fallocate, { fid, mode: 0, offset: 0, length: 9 }),
        await web.errno(CopyRange, { fromFid: fid, toFid: fid, fromOffset: 0, toOffset: 99, length: 9 }),
        await web.errno(Batch, { operations: [], grantUsed: 0 }),
        await opens(web, fid, WRONLY, caller),
        await opens(web, fid, RDONLY | O_TRUNC, caller),
        await web.errno(Enqueue, { type: 'data', fid, mode: 'PW', caller }),
        await web.errno(Enqueue, { type: 'flock', fid, mode: 'EX', flock: FLOCK }),
        await made({}),
        await made({ name, exclusive: false, fh: web.newFh(), flags: RDWR }),
      ],
      Array(16).fill('EROFS'),
    );
    assert.deepEqual(
      [
        await made({ name }),
        await made({ name, exclusive: false, fh: web.newFh(), flags: RDONLY }),
        await opens(web, fid, RDONLY, caller),
        await web.errno(Enqueue, { type: 'flock', fid, mode: 'PR', flock: { ...FLOCK, exclusive: false } }),
        await web.errno(Enqueue, { type: 'data', fid, mode: 'PR', caller }),
        await web.errno(Read, { fid, offset: 0, length: 9 }),
      ],
      ['EEXIST', 'made', 'no error', 'no error', 'no error', 'no error'],
    );
    const { locks } = await web.call(Lookup, {
      parent: dir,
      name,
      want: WANT_DATA_WRITE | WANT_OWN_PARENT,
      caller,
    });
    assert.deepEqual(locks, []);
    assert.equal((await web.connect({ secret: `secret of ${web.name}` })).restricted?.readOnly, true);
  }
});
