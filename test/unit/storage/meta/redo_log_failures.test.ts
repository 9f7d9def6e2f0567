/** The redo log, when devices fail or the power goes at a bad moment: it forgets nothing that is nowhere else. */

import assert from 'node:assert/strict';
import { closeSync, openSync, writeSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../../src/base/errno.js';
import { type Fid, type Name, ROOT_FID } from '../../../../src/base/ids.js';
import { Deferred } from '../../../../src/base/wait.js';
import type { Timer } from '../../../../src/runtime/ports.js';
import { logPlace } from '../../../../src/storage/format/log_record.js';
import { FEATURE_REDO_LOG } from '../../../../src/storage/format/superblock.js';
import { fsckTarget } from '../../../../src/storage/fsck/fsck.js';
import { metaMedium } from '../../../../src/storage/meta/lmdb_store.js';
import { LMDB_PAGE_BYTES, readMetas } from '../../../../src/storage/meta/meta_probe.js';
import { openTarget } from '../../../../src/storage/target.js';
import {
  contentOf,
  createWith,
  failing,
  features,
  lastPage,
  leftWithLog,
  namesOf,
  SLOW,
  watched,
} from '../../../fixtures/logged_target.js';
import {
  createFile,
  MIB,
  TEST_TIME,
  type TestDevices,
  type TestTarget,
  testTarget,
} from '../../../fixtures/storage_target.js';

/** Four of these begin a checkpoint of a log of 1 MiB, and no commit flushes the data device for one. */
const CARRIED = 60_000;

test('after a checkpoint that failed there is no other: what it had is still in the log', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const seen = watched(target);
  const store = await target.open(SLOW);
  const checkpoint = new Deferred<void>();
  const fails = new Deferred<void>();
  const appending = new Deferred<void>();
  const ends = new Deferred<void>();
  seen.onTree = async () => {
    delete seen.onTree;
    checkpoint.resolve();
    await fails.promise;
    throw new FsError('EIO', 'a transient error');
  };
  for (const name of ['a', 'b', 'c', 'd']) {
    await createWith(store, name, Buffer.alloc(CARRIED, 1));
    await store.sync();
  }
  await checkpoint.promise;
  // An append is under way when it fails, and ends well.
  seen.onLog = async (write) => {
    appending.resolve();
    await ends.promise;
    await write();
  };
  createFile(store, 'e');
  const synced = store.sync();
  await appending.promise;
  fails.resolve();
  assert.match((await store.failed).message, /a transient error/);
  ends.resolve();
  await synced;
  // Waits for a checkpoint that is under way.
  await store.close();
  target.store = undefined;
  assert.deepEqual(namesOf(await target.crash(() => false, SLOW)), ['a', 'b', 'c', 'd', 'e']);
});

test('a start flushes the content that the log has before its first transaction, which drops the log', async (t) => {
  const target = await leftWithLog(t);
  const seen = watched(target);
  const { data } = target.devices;
  const flush = data.flush.bind(data);
  // A slow device: many commit intervals.
  t.mock.method(data, 'flush', async () => {
    await new Promise((resolve) => setTimeout(resolve, 100));
    await flush();
  });
  let left: TestDevices | undefined;
  seen.onTree = async (commit) => {
    await commit();
    left ??= target.image();
  };
  const store = await openTarget(target.runtime, target.devices, { commitIntervalMs: 1 });
  target.store = store;
  await store.begin('1.0.0', { within: (tx) => tx.putXattr(ROOT_FID, 'user.x', Buffer.from('1')) });
  await store.close();
  assert.ok(left !== undefined);
  target.devices = left;
  const again = await target.open(SLOW);
  assert.deepEqual(namesOf(again), ['f', 'g']);
  assert.deepEqual(await contentOf(again, 'g'), Buffer.alloc(8192, 6));
});

test('a tree with scattered free pages that comes near the log ends it: large values go on', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const store = await target.open(SLOW);
  const files: Fid[] = [];
  const turn = async (number: number): Promise<void> => {
    if (number % 20 !== 0) return;
    await store.sync();
    await store.room();
  };
  for (let number = 0; number < 1800; number++) {
    const fid = createFile(store, `f${number}`);
    store.execute((tx) => tx.putXattr(fid, 'user.small', Buffer.alloc(3900, number)));
    files.push(fid);
    await turn(number);
  }
  for (let number = 0; number < files.length; number += 2) {
    const fid = files[number] as Fid;
    store.execute((tx) => tx.removeXattr(fid, 'user.small'), { reserve: true });
    await turn(number);
  }
  await store.sync();
  const pages = logPlace(target.devices.metaSizeBytes).offset / LMDB_PAGE_BYTES;
  assert.notEqual((await features(target)) & FEATURE_REDO_LOG, 0);
  let large = 0;
  while ((await lastPage(target)) < pages) {
    const fid = files[large] as Fid;
    store.execute((tx) => tx.putXattr(fid, 'user.large', Buffer.alloc(60_000, large)));
    await store.sync();
    await store.room();
    large += 1;
  }
  assert.equal((await features(target)) & FEATURE_REDO_LOG, 0);
  const again = await target.crash(() => false, SLOW);
  const lost = files.slice(0, large).filter((fid) => again.xattr(fid, 'user.large')?.length !== 60_000);
  assert.deepEqual(lost, []);
  await again.markClean();
  await again.close();
  target.store = undefined;
  assert.deepEqual((await fsckTarget(target.runtime, target.devices)).findings, []);
});

test('a repair whose data device fails leaves the log for the next one', async (t) => {
  const target = await leftWithLog(t);
  const write = t.mock.method(target.devices.data, 'write', failing('a transient error'));
  await assert.rejects(fsckTarget(target.runtime, target.devices, { repair: true, force: true }), {
    code: 'EIO',
    message: /a transient error/,
  });
  write.mock.restore();
  const store = await target.open(SLOW);
  assert.deepEqual(namesOf(store), ['f', 'g']);
  assert.deepEqual(await contentOf(store, 'g'), Buffer.alloc(8192, 6));
});

test('what comes while a checkpoint runs gets a checkpoint of its own, without another commit', {
  timeout: 30_000,
}, async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const seen = watched(target);
  const store = await target.open(SLOW);
  const first = new Deferred<void>();
  const goesOn = new Deferred<void>();
  const second = new Deferred<void>();
  seen.onTree = async (commit) => {
    seen.onTree = async (next) => {
      await next();
      second.resolve();
    };
    first.resolve();
    await goesOn.promise;
    await commit();
  };
  for (let number = 0; number < 12; number++) {
    await createWith(store, `f${number}`, Buffer.alloc(CARRIED, number));
    await store.sync();
  }
  await first.promise;
  goesOn.resolve();
  await second.promise;
  store.checkInvariants();
});

test('a power loss at any transaction of a clean stop leaves a target that starts, whoever syncs meanwhile', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 16 * MIB });
  const seen = watched(target);
  const store = await target.open(SLOW);
  const images: TestDevices[] = [];
  const others: Promise<void>[] = [];
  let commits = 0;
  const during = async (): Promise<void> => {
    commits += 1;
    if (commits === 1) {
      createFile(store, 'b');
      others.push(store.markClean());
    } else if (commits === 2) {
      createFile(store, 'c');
      others.push(store.sync());
    }
  };
  seen.onLog = async (write) => {
    await during();
    await write();
  };
  seen.onTree = async (commit) => {
    await during();
    await commit();
    images.push(target.image());
  };
  createFile(store, 'a');
  await store.sync();
  await Promise.all(others);
  await store.close();
  assert.ok(images.length > 0);
  for (const image of images) {
    target.devices = image;
    assert.deepEqual(namesOf(await target.open(SLOW)).slice(0, 2), ['a', 'b']);
    await target.store?.close();
  }
  target.store = undefined;
});

/** Timers of the target strike when the test says so. */
function heldTimers(t: TestContext, target: TestTarget): { strike(): void } {
  const waiting = new Set<() => void>();
  t.mock.method(target.runtime.timers, 'after', (_: number, fn: () => void): Timer => {
    const strike = (): void => fn();
    waiting.add(strike);
    return { cancel: () => waiting.delete(strike) };
  });
  return {
    strike() {
      const due = [...waiting];
      waiting.clear();
      for (const strike of due) strike();
    },
  };
}

test('after a flush that failed, no checkpoint takes a later flush for it: the log keeps the content', async (t) => {
  const target = await testTarget(t);
  const timers = heldTimers(t, target);
  const { data } = target.devices;
  const store = await target.open(SLOW);
  const fid = createFile(store, 'f');
  await store.data.write(fid, 0, Buffer.alloc(8192, 5), { time: TEST_TIME });
  await store.sync();
  // As Linux does it: only the first flush after a failed write-back fails, and what it lost stays lost.
  let flushes = 0;
  const flush = t.mock.method(data, 'flush', async () => {
    flushes += 1;
    if (flushes === 1) throw new FsError('EIO', 'write-back failed');
  });
  await store.data.write(fid, 8192, Buffer.alloc(200_000, 6), { time: TEST_TIME });
  await assert.rejects(store.sync(), { code: 'EIO', message: /write-back failed/ });
  timers.strike();
  // Waits for a checkpoint that is under way.
  await store.close();
  target.store = undefined;
  flush.mock.restore();
  const again = await target.crash(() => false, SLOW);
  assert.deepEqual(await contentOf(again, 'f'), Buffer.alloc(8192, 5));
});

test('when fsck goes back a transaction, records of the log behind that one are not applied', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const store = await target.open(SLOW);
  createFile(store, 'a');
  await store.sync();
  // Too large for the log: this commit goes to the tree itself.
  const large = createFile(store, 'b');
  store.execute((tx) => {
    for (let number = 0; number < 6; number++) tx.putXattr(large, `user.${number}`, Buffer.alloc(60_000));
  });
  await store.sync();
  store.execute((tx) => {
    const inode = tx.inode(large);
    assert.ok(inode !== undefined);
    tx.putInode({ ...inode, uid: 77 });
  });
  createFile(store, 'c');
  await store.sync();
  await target.cutPower();
  const { metaPath, metaSizeBytes } = target.devices;
  const metas = await metaMedium(target.devices).withRawReader((read) => readMetas(read, metaSizeBytes));
  const [one, other] = metas.map((meta) => meta?.transaction ?? 0) as [number, number];
  const newest = one > other ? 0 : 1;
  const fd = openSync(metaPath, 'r+');
  writeSync(fd, Buffer.alloc(200, 0xff), 0, 200, newest * LMDB_PAGE_BYTES);
  closeSync(fd);
  const report = await fsckTarget(target.runtime, target.devices, { repair: true, force: true });
  assert.deepEqual(
    report.findings.map(({ kind }) => kind).filter((kind) => kind !== 'page' && kind !== 'free-list'),
    [],
  );
  const again = await target.open(SLOW);
  assert.deepEqual([namesOf(again), again.inode(large)], [['a'], undefined]);
});

interface Left {
  readonly when: string;
  readonly devices: TestDevices;
  /** Content of files that were synced, and not changed since. */
  readonly synced: ReadonlyMap<string, Buffer>;
}

async function checkLeft({ runtime }: TestTarget, { when, devices, synced }: Left): Promise<void> {
  assert.deepEqual((await fsckTarget(runtime, devices, { checksums: true })).findings, [], when);
  const store = await openTarget(runtime, devices, SLOW);
  try {
    await store.begin('1.0.0');
    for (const [name, content] of synced) {
      assert.ok((await contentOf(store, name)).equals(content), `${when}: ${name}`);
    }
  } finally {
    await store.close();
  }
}

test('the power goes around writes to the log and transactions: fsck finds nothing, all that was synced is there', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 16 * MIB });
  const seen = watched(target);
  const store = await target.open({});
  let seed = 99;
  const random = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((seed / 2 ** 31) * below);
  };
  const synced = new Map<string, Buffer>();
  const left: Left[] = [];
  const passed = new Map<string, number>();
  /** The power goes at one of so many of these moments. */
  const mayEnd = (when: string, seldom: number): void => {
    const times = passed.get(when) ?? 0;
    passed.set(when, times + 1);
    if (times % seldom !== seldom >> 1) return;
    left.push({ when, devices: target.image(() => random(2) === 0), synced: new Map(synced) });
  };
  seen.onLog = async (write) => {
    mayEnd('before a write to the log', 24);
    await write();
    mayEnd('after a write to the log', 24);
  };
  seen.onTree = async (commit) => {
    mayEnd('before a transaction', 3);
    // More goes to the log meanwhile.
    for (let turns = random(20); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
    mayEnd('at a transaction', 3);
    await commit();
    mayEnd('after a transaction', 3);
  };
  for (let round = 0; round < 140; round++) {
    const name = `f${random(25)}`;
    const content = Buffer.alloc(random(6) === 0 ? 200_000 : random(30_000) + 1, round + 1);
    const fid = store.dirent(ROOT_FID, name as Name)?.fid ?? createFile(store, name);
    synced.delete(name);
    await store.data.truncate(fid, 0, { time: TEST_TIME });
    await store.data.write(fid, 0, content, { time: TEST_TIME });
    await store.sync();
    synced.set(name, content);
    mayEnd('after a sync', 24);
  }
  await store.close();
  target.store = undefined;
  for (const one of left) await checkLeft(target, one);
  const moments = new Set(left.map(({ when }) => when));
  assert.equal(moments.size, 6, [...moments].join());
});
