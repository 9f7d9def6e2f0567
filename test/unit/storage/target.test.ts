import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { S_IFREG } from '../../../src/base/attr.js';
import { FsError } from '../../../src/base/errno.js';
import {
  type ClientUuid,
  type Fid,
  type Name,
  ROOT_FID,
  type Transno,
  type Xid,
} from '../../../src/base/ids.js';
import { applyCreate } from '../../../src/rules/create.js';
import type { ClientRecord, Tx } from '../../../src/storage/api.js';
import { openTarget } from '../../../src/storage/target.js';
import { createFile, MIB, TEST_TIME, testTarget } from '../../fixtures/storage_target.js';

const TIME = TEST_TIME;

test('what was executed and synced is there after a crash, what was not is gone', async (t) => {
  const target = await testTarget(t);
  let store = await target.open({ commitIntervalMs: 1000 });
  const kept = createFile(store, 'kept');
  await store.data.write(kept, 0, Buffer.from('hello'), { time: TIME });
  await store.sync();
  const lost = createFile(store, 'lost');
  assert.equal(store.dirent(ROOT_FID, 'lost' as Name)?.fid, lost);
  store = await target.crash();
  assert.deepEqual(
    store.dirents(ROOT_FID, 0, 10).map((entry) => entry.name),
    ['kept'],
  );
  assert.equal(Buffer.concat(await store.data.read(kept, 0, 100)).toString(), 'hello');
  assert.equal(store.superblock.clean, false);
  assert.equal(store.superblock.instance, 2);
});

test('opening changes nothing on the devices before begin', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  createFile(store, 'a');
  await store.markClean();
  await store.close();
  const digest = (): string =>
    createHash('sha256')
      .update(readFileSync(target.devices.metaPath))
      .update(target.devices.data.content)
      .digest('hex');
  const before = digest();
  const again = await openTarget(target.runtime, target.devices);
  assert.equal(again.superblock.clean, true);
  assert.equal(again.dirents(ROOT_FID, 0, 10).length, 1);
  await again.close();
  assert.equal(digest(), before);
});

test('an operation that throws leaves nothing behind', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const fid = createFile(store, 'a');
  const before = { inodes: store.statfs().inodes, last: store.lastTransno };
  assert.throws(() =>
    store.execute((tx) => {
      tx.removeDirent(ROOT_FID, 'a' as Name);
      tx.destroyInode(fid);
      tx.putOrphan(fid);
      tx.allocateFids(10);
      assert.deepEqual([tx.inode(fid), tx.orphans(), tx.directoryEmpty(ROOT_FID)], [undefined, [fid], true]);
      throw new Error('no');
    }),
  );
  assert.deepEqual(
    [store.inode(fid)?.fid, store.orphans(), store.dirents(ROOT_FID, 0, 9).length, store.lastTransno],
    [fid, [], 1, before.last],
  );
  assert.equal(store.execute((tx) => tx.allocateFids(1)).result.start, fid + 1);
  assert.equal(store.execute((tx) => tx.inode(fid)).transno, 0);
});

test('reads merge what is collected, what is being committed and what is stored', async (t) => {
  const target = await testTarget(t);
  const store = await target.open({ commitIntervalMs: 10_000 });
  const names = (): string[] => store.dirents(ROOT_FID, 0, 100).map((entry) => entry.name);
  const remove = (name: string): void => {
    store.execute((tx) => tx.removeDirent(ROOT_FID, name as Name));
  };
  createFile(store, 'stored1');
  const fid = createFile(store, 'stored2');
  store.execute((tx) => tx.putXattr(fid, 'user.a', Buffer.from('1')));
  await store.sync();
  createFile(store, 'committing');
  store.execute((tx) => tx.putXattr(fid, 'user.b', Buffer.from('2')));
  remove('stored1');
  const syncing = store.sync();
  // One turn later the commit has sealed what was there.
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  createFile(store, 'collected');
  remove('committing');
  store.execute((tx) => tx.removeXattr(fid, 'user.a'));
  const expected = ['stored2', 'collected'];
  assert.deepEqual([names(), store.xattrNames(fid)], [expected, ['user.b']]);
  await syncing;
  assert.deepEqual([names(), store.xattrNames(fid)], [expected, ['user.b']]);
  await store.sync();
  assert.deepEqual([names(), store.xattrNames(fid)], [expected, ['user.b']]);
  const cookies = store.dirents(ROOT_FID, 0, 100).map((entry) => entry.cookie);
  assert.deepEqual(store.dirents(ROOT_FID, cookies[0] ?? 0, 1)[0]?.name, 'collected');
});

test('an entry takes an old position only if an instance before handed it out, behind all of the directory', async (t) => {
  const target = await testTarget(t);
  let store = await target.open({ commitIntervalMs: 10_000 });
  const stored = createFile(store, 'stored');
  await store.sync();
  const last = store.dirent(ROOT_FID, 'stored' as Name)?.cookie ?? 0;
  store = await target.crash();
  const put = (name: string, position?: number): number =>
    store.execute((tx) => tx.putDirent(ROOT_FID, name as Name, stored, S_IFREG, position)).result;
  const fresh = put('fresh');
  assert.ok(fresh > last + 2);
  store.execute((tx) => tx.removeDirent(ROOT_FID, 'fresh' as Name));
  assert.equal(put('again', last + 2), last + 2);
  const refused = [last, last + 2, last + 1, fresh + 5, 2 ** 53 - 1, 0].map((position, index) => {
    return put(`new${index}`, position);
  });
  assert.deepEqual(
    refused,
    refused.map((_, index) => fresh + 1 + index),
  );
  await store.sync();
  const names = store.dirents(ROOT_FID, 0, 100).map(({ name }) => name);
  assert.deepEqual(names, ['stored', 'again', ...refused.map((_, index) => `new${index}`)]);
  store.execute((tx) => {
    for (const name of names.slice(1)) tx.removeDirent(ROOT_FID, name as Name);
  });
});

test('callers of sync share commits, and lastCommitted follows what is durable', async (t) => {
  const target = await testTarget(t);
  const store = await target.open({ commitIntervalMs: 10_000 });
  const commits: number[] = [];
  store.onCommit((lastCommitted) => commits.push(lastCommitted));
  for (let index = 0; index < 10; index++) createFile(store, `f${index}`);
  assert.ok(store.lastCommitted < store.lastTransno);
  await Promise.all(Array.from({ length: 10 }, () => store.sync()));
  assert.deepEqual(commits, [store.lastTransno]);
  assert.equal(store.lastCommitted, store.lastTransno);
  assert.equal(Math.floor(store.lastTransno / 2 ** 32), store.superblock.instance);
});

test('more data than the redo log takes along is flushed before the transaction that names it', async (t) => {
  const target = await testTarget(t);
  const store = await target.open({ commitIntervalMs: 10_000 });
  const fid = createFile(store, 'f');
  await store.sync();
  const { flushes } = target.devices.data;
  await store.data.write(fid, 0, Buffer.alloc(100_000, 1), { time: TIME });
  assert.equal(target.devices.data.flushes, flushes);
  await store.sync();
  assert.equal(target.devices.data.flushes, flushes + 1);
});

test('a failed flush stops the target, loudly and for good', async (t) => {
  const target = await testTarget(t);
  const store = await target.open({ commitIntervalMs: 10_000 });
  const fid = createFile(store, 'f');
  await store.data.write(fid, 0, Buffer.alloc(100_000, 1), { time: TIME });
  target.devices.data.failing = new FsError('EIO', 'the disk is gone');
  await assert.rejects(store.sync(), { code: 'EIO', message: /the disk is gone/ });
  assert.match((await store.failed).message, /the disk is gone/);
  target.devices.data.failing = undefined;
  assert.throws(() => createFile(store, 'g'), { code: 'EIO' });
  await assert.rejects(store.sync(), { code: 'EIO' });
  await assert.rejects(store.markClean(), { code: 'EIO' });
  await assert.rejects(async () => store.data.read(fid, 0, 1), { code: 'EIO' });
  const again = await target.crash();
  assert.equal(again.dirents(ROOT_FID, 0, 10).length, 0);
});

test('a value of many pages gets ENOSPC where no pages are in a row, and no commit goes past the end of the device', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const store = await target.open();
  const room = async (): Promise<void> => {
    for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
  };
  const files: Fid[] = [];
  const isFull = (thrown: unknown): void => {
    assert.equal((thrown as FsError).code, 'ENOSPC');
  };
  for (let full = false; !full; ) {
    try {
      const fid = createFile(store, `${files.length}`);
      store.execute((tx) => tx.putXattr(fid, 'user.small', Buffer.alloc(3900)));
      files.push(fid);
    } catch (thrown) {
      isFull(thrown);
      full = true;
    }
    await room();
  }
  // Every other page becomes free.
  for (let at = 0; at < files.length; at += 2) {
    store.execute((tx) => tx.removeXattr(files[at] as Fid, 'user.small'), { reserve: true });
    await room();
  }
  await store.sync();
  let inARow = 0;
  for (let at = 0; at < files.length; at++) {
    try {
      store.execute((tx) => tx.putXattr(files[at] as Fid, 'user.large', Buffer.alloc(60_000)));
    } catch (thrown) {
      isFull(thrown);
      if (/in a row/.test((thrown as Error).message)) inARow += 1;
    }
    await room();
    await store.sync();
  }
  assert.ok(inARow > 0 && inARow < files.length, `${inARow} of ${files.length}`);
  assert.ok(statSync(target.devices.metaPath).size <= 16 * MIB);
  // Small ones still find room.
  store.execute((tx) => tx.putXattr(files[1] as Fid, 'user.more', Buffer.alloc(1000)));
  await target.reopen();
});

test('a full meta device refuses new names, deletes work, and what they free is usable', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const store = await target.open();
  const fids: Fid[] = [];
  const room = async (): Promise<void> => {
    for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
  };
  const fill = async (): Promise<void> => {
    for (;;) {
      await room();
      const fid = createFile(store, `file-${fids.length}-${'x'.repeat(200)}`);
      fids.push(fid);
      await store.data.write(fid, 0, Buffer.alloc(3000, 1), { time: TIME });
    }
  };
  await assert.rejects(fill, { code: 'ENOSPC' });
  assert.ok(fids.length > 1000, `${fids.length} files`);
  assert.throws(() => createFile(store, 'one more'), { code: 'ENOSPC' });
  await store.sync();
  for (const { name, fid } of store.dirents(ROOT_FID, 0, fids.length)) {
    const remove = (tx: Tx): void => {
      tx.removeDirent(ROOT_FID, name);
      tx.destroyInode(fid);
    };
    await room();
    store.execute(remove, { reserve: true });
  }
  await store.sync();
  assert.equal(store.directoryEmpty(ROOT_FID), true);
  const before = fids.length;
  await assert.rejects(fill, { code: 'ENOSPC' });
  assert.ok(fids.length - before > before * 0.9, `${fids.length - before} files the second time`);
  await target.reopen();
});

test('FIDs and cookies handed out before a crash are not handed out again', async (t) => {
  const target = await testTarget(t);
  let store = await target.open({ commitIntervalMs: 10_000 });
  const lost = store.execute((tx) => tx.allocateFids(1000)).result;
  createFile(store, 'lost');
  const cookie = store.dirent(ROOT_FID, 'lost' as Name)?.cookie ?? 0;
  store = await target.crash();
  const fid = createFile(store, 'new');
  assert.ok(fid >= lost.end);
  assert.ok((store.dirent(ROOT_FID, 'new' as Name)?.cookie ?? 0) > cookie);
  store = await target.reopen();
  assert.equal(createFile(store, 'next'), fid + 1);
});

test('clients, orphans, symlinks and xattrs are kept', async (t) => {
  const target = await testTarget(t);
  let store = await target.open();
  const client: ClientRecord = {
    uuid: '00112233-4455-6677-8899-aabbccddeeff' as ClientUuid,
    name: 'host:/mnt',
    softwareVersion: '1.0.0',
    secret: 'abc',
    lastTransno: 5 as Transno,
    principal: 'key:backup',
  };
  const large = Buffer.alloc(60_000, 3);
  const fid = store.execute((tx) => {
    const { start } = tx.allocateFids(1);
    tx.putClient(client);
    tx.putOrphan(start);
    tx.putSymlinkTarget(start, Buffer.from('../t\xff', 'latin1'));
    tx.putXattr(start, 'user.large', large);
    tx.putXattr(start, 'user.empty', Buffer.alloc(0));
    return start;
  }).result;
  store = await target.reopen();
  assert.deepEqual(
    {
      clients: store.clients(),
      orphans: store.orphans(),
      target: store.symlinkTarget(fid)?.toString('latin1'),
      names: store.xattrNames(fid),
      large: store.xattr(fid, 'user.large')?.equals(large),
      empty: store.xattr(fid, 'user.empty')?.length,
    },
    {
      clients: [client],
      orphans: [fid],
      target: '../t\xff',
      names: ['user.empty', 'user.large'],
      large: true,
      empty: 0,
    },
  );
  store.execute((tx) => {
    tx.removeClient(client.uuid);
    tx.removeOrphan(fid);
    tx.destroyInode(fid);
  });
  store = await target.reopen();
  assert.deepEqual([store.clients(), store.orphans(), store.xattrNames(fid)], [[], [], []]);
});

test('replies lie in slots of their client, and go with it', async (t) => {
  const target = await testTarget(t);
  let store = await target.open({ commitIntervalMs: 10_000 });
  const [a, b] = [
    '00112233-4455-6677-8899-aabbccddeeff',
    '00112233-4455-6677-8899-aabbccddef00',
  ] as ClientUuid[];
  assert.ok(a !== undefined && b !== undefined);
  const reply = (xid: number, transno: Transno) => ({
    xid: xid as Xid,
    opcode: 68,
    transno,
    fid: 7 as Fid,
    copiedBytes: 0,
  });
  const put = (uuid: ClientUuid, slot: number, xid: number): Transno =>
    store.execute((tx) => tx.putReply(uuid, slot, reply(xid, tx.transno))).transno;
  put(a, 0, 1);
  const second = put(a, 65_535, 2);
  const other = put(b, 0, 1);
  store = await target.reopen({ commitIntervalMs: 10_000 });
  const third = put(a, 0, 3);
  const found = store.replies(a).sort((left, right) => left.slot - right.slot);
  assert.deepEqual(found, [
    { slot: 0, ...reply(3, third) },
    { slot: 65_535, ...reply(2, second) },
  ]);
  store.execute((tx) => tx.removeClient(a));
  assert.deepEqual([store.replies(a), store.replies(b)], [[], [{ slot: 0, ...reply(1, other) }]]);
  store = await target.reopen();
  assert.deepEqual([store.replies(a), store.replies(b)], [[], [{ slot: 0, ...reply(1, other) }]]);
});

test('close waits for what is under way and leaves no timer', async (t) => {
  const target = await testTarget(t);
  const store = await target.open({ commitIntervalMs: 10_000 });
  const fid = createFile(store, 'f');
  const writing = Promise.resolve(store.data.write(fid, 0, Buffer.alloc(MIB), { time: TIME })).then(
    () => 'written',
    (thrown: FsError) => thrown.code,
  );
  const syncing = store.sync().then(
    () => 'synced',
    (thrown: FsError) => thrown.code,
  );
  await store.close();
  const { writes } = target.devices.data;
  assert.deepEqual(await Promise.all([writing, syncing]), ['EIO', 'EIO']);
  assert.equal(target.devices.data.writes, writes);
});

test('inodes that were created and inodes that were read share one hidden class of V8', async (t) => {
  const target = await testTarget(t);
  let store = await target.open();
  const circumstances = { now: TIME, fateOf: () => 'destroyed' as const };
  const object = { parent: ROOT_FID, mode: S_IFREG | 0o644, umask: 0, uid: 0, gid: 0 };
  const fids = Array.from({ length: 50 }, (_, index) =>
    store.execute((tx) => {
      const { start: fid } = tx.allocateFids(1);
      return applyCreate(tx, { ...object, fid, name: `f${index}` as Name }, circumstances).attr.fid;
    }),
  ).map(({ result }) => result);
  setFlagsFromString('--allow-natives-syntax');
  const share = new Function('a', 'b', 'return %HaveSameMap(a, b)') as (a: unknown, b: unknown) => boolean;
  // Number fields begin as small integers: V8 moves the first inodes to another class when a digest does not fit any more.
  const shared = (): number => {
    const inodes = fids.map((fid) => store.inode(fid));
    return inodes.filter((inode) => share(inode, inodes.at(-1))).length;
  };
  assert.ok(shared() > 25, `${shared()} of 50 that were created`);
  await store.sync();
  store = await target.crash();
  assert.ok(shared() > 25, `${shared()} of 50 that were read`);
});
