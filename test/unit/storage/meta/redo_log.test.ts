/** The redo log: what is in it is durable and seen, whenever the power goes; and a clean target has nothing of it. */

import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, truncateSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { type Fid, type Name, ROOT_FID, type TargetUuid } from '../../../../src/base/ids.js';
import { afterPrefix, bareKey, fidNumberKey, KEY } from '../../../../src/storage/format/keys.js';
import {
  decodeLogRecord,
  decodeLogState,
  encodeLogRecord,
  encodeLogState,
  LOG_ALIGN_BYTES,
  type LogRecord,
  logPlace,
  logRecordBytes,
} from '../../../../src/storage/format/log_record.js';
import { FEATURE_REDO_LOG } from '../../../../src/storage/format/superblock.js';
import { fsckTarget } from '../../../../src/storage/fsck/fsck.js';
import { growTarget } from '../../../../src/storage/grow.js';
import { metaMedium } from '../../../../src/storage/meta/lmdb_store.js';
import { type LoggedDatabase, openLogged } from '../../../../src/storage/meta/logged_database.js';
import type { ContentPiece } from '../../../../src/storage/meta_medium.js';
import { readSuperblock } from '../../../../src/storage/target.js';
import {
  contentOf,
  failing,
  features,
  lastPage,
  leftWithLog,
  namesOf,
  SLOW,
  watched,
} from '../../../fixtures/logged_target.js';
import { tableChecksum } from '../../../fixtures/memory_device.js';
import { createFile, MIB, TEST_TIME, type TestTarget, testTarget } from '../../../fixtures/storage_target.js';

const UUID = '00000000-0000-4000-8000-000000000001' as TargetUuid;

/** Changes bytes of the meta device where the log is. */
function spoil(target: TestTarget, offset: number, bytes: Buffer): void {
  const fd = openSync(target.devices.metaPath, 'r+');
  writeSync(fd, bytes, 0, bytes.length, logPlace(target.devices.metaSizeBytes).offset + offset);
  closeSync(fd);
}

/** Where records with this target's magic begin, in the log. */
function recordsAt(target: TestTarget): number[] {
  const { offset, bytes } = logPlace(target.devices.metaSizeBytes);
  const fd = openSync(target.devices.metaPath, 'r');
  const found: number[] = [];
  const start = Buffer.alloc(8);
  for (let at = 0; at < bytes; at += LOG_ALIGN_BYTES) {
    readSync(fd, start, 0, 8, offset + at);
    if (start.toString('latin1') === 'HFlog001') found.push(at);
  }
  closeSync(fd);
  return found;
}

test('a small write with fsync is one write to the log: no flush of the data device, no transaction', async (t) => {
  const target = await testTarget(t);
  const seen = watched(target);
  const store = await target.open(SLOW);
  const fid = createFile(store, 'f');
  await store.sync();
  const { flushes } = target.devices.data;
  const before = { ...seen };
  for (let round = 0; round < 10; round++) {
    await store.data.write(fid, 0, Buffer.alloc(8192, round), { time: TEST_TIME });
    await store.sync();
  }
  assert.deepEqual(
    { flushes: target.devices.data.flushes - flushes, logWrites: seen.logWrites - before.logWrites },
    { flushes: 0, logWrites: 10 },
  );
  assert.equal(seen.transactions, before.transactions);
  // The data device loses everything that was not flushed.
  const again = await target.crash(() => false, SLOW);
  assert.deepEqual(await contentOf(again, 'f'), Buffer.alloc(8192, 9));
});

/** The target's database with its log, as a server has it from begin() on. */
async function logged(target: TestTarget): Promise<LoggedDatabase> {
  const { runtime, devices } = target;
  const superblock = await readSuperblock(runtime, devices);
  const medium = metaMedium(devices);
  return await openLogged(medium, medium.open(), devices.metaPath, superblock, runtime.checksum, {
    wanted: true,
    timers: { after: () => ({ cancel: () => undefined }) },
    data: devices.data,
  });
}

test('content that the log took along does not come back over content that was flushed later', async (t) => {
  const target = await testTarget(t);
  // Its begin() says that there is a log.
  const store = await target.open(SLOW);
  await store.close();
  target.store = undefined;
  const db = await logged(target);
  assert.ok(db.start(2));
  await db.commit(() => undefined, { through: true, log: 'begins' });
  const piece = (offset: number, fill: number): ContentPiece => ({ offset, bytes: Buffer.alloc(4096, fill) });
  await db.commit(() => undefined, { content: [piece(65_536, 1)] });
  // A flush: the blocks may have other content by now.
  await db.commit(() => undefined, { content: undefined });
  await db.commit(() => undefined, { content: [piece(69_632, 2), piece(73_728, 3)] });
  await db.commit(() => undefined, { content: [] });
  await db.commit(() => undefined, { content: [piece(69_632, 4)] });
  await db.close();
  const found = await logged(target);
  t.after(() => found.close());
  assert.deepEqual(
    found.foundContent.map(({ offset, bytes }) => [offset, bytes[0], bytes.length]),
    [
      [69_632, 2, 4096],
      [73_728, 3, 4096],
      [69_632, 4, 4096],
    ],
  );
  const { flushes } = target.devices.data;
  await found.restoreContent();
  const block = Buffer.alloc(4096);
  await target.devices.data.read(69_632, block);
  assert.deepEqual([block[0], target.devices.data.flushes - flushes, found.foundContent], [4, 1, []]);
});

test('the power goes at every commit of a long life, with a log that goes round: all that was synced is there', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  let store = await target.open(SLOW);
  const model = new Map<string, Buffer>();
  let seed = 7;
  const random = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((seed / 2 ** 31) * below);
  };
  let crashes = 0;
  for (let round = 0; round < 400; round++) {
    for (let step = random(4); step >= 0; step--) {
      const name = `f${random(30)}`;
      const fid = store.dirent(ROOT_FID, name as Name)?.fid;
      if (fid === undefined) {
        const content = Buffer.alloc(random(60_000), round + 1);
        await store.data.write(createFile(store, name), 0, content, { time: TEST_TIME });
        model.set(name, content);
      } else if (random(2) === 0) {
        store.execute((tx) => {
          tx.removeDirent(ROOT_FID, name as Name);
          tx.destroyInode(fid);
        });
        model.delete(name);
      } else {
        const content = Buffer.alloc(random(9000), round + 1);
        await store.data.truncate(fid, 0, { time: TEST_TIME });
        await store.data.write(fid, 0, content, { time: TEST_TIME });
        model.set(name, content);
      }
    }
    await store.sync();
    if (random(8) !== 0) continue;
    crashes += 1;
    store = await target.crash(() => random(2) === 0, SLOW);
    assert.deepEqual(namesOf(store).sort(), [...model.keys()].sort(), `after crash ${crashes}`);
    for (const [name, content] of model) assert.deepEqual(await contentOf(store, name), content, name);
  }
  assert.ok(crashes > 20, `${crashes} crashes`);
  await store.markClean();
  await store.close();
  const report = await fsckTarget(target.runtime, target.devices, { checksums: true });
  assert.deepEqual(report.findings, []);
});

test('one life writes more than the log holds, and the log goes round', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const store = await target.open(SLOW);
  const fid = createFile(store, 'f');
  // 1 MiB of log, and 36 KiB or 40 KiB for each record: some of them meet the end of the ring exactly, others do not.
  for (let round = 0; round < 120; round++) {
    await store.data.write(fid, 0, Buffer.alloc(4096 * (7 + (round % 2)), round), { time: TEST_TIME });
    await store.sync();
    store.checkInvariants();
  }
  const again = await target.crash(() => false, SLOW);
  assert.deepEqual(await contentOf(again, 'f'), Buffer.alloc(4096 * 8, 119));
});

test('a torn last record is as if it was never written; what is behind a damaged one is lost with it', async (t) => {
  for (const spoilt of ['last', 'middle'] as const) {
    const target = await testTarget(t);
    const store = await target.open(SLOW);
    for (const name of ['a', 'b', 'c']) {
      createFile(store, name);
      await store.sync();
    }
    const at = recordsAt(target);
    assert.equal(at.length, 3);
    spoil(target, ((spoilt === 'last' ? at[2] : at[1]) as number) + 100, Buffer.alloc(8, 0xee));
    assert.deepEqual(namesOf(await target.crash(() => false, SLOW)), spoilt === 'last' ? ['a', 'b'] : ['a']);
  }
});

test('nothing of an earlier instance, or of an earlier target on the device, is taken for a record', async (t) => {
  const target = await testTarget(t);
  let store = await target.open(SLOW);
  for (const name of ['a', 'b', 'c']) {
    createFile(store, name);
    await store.sync();
  }
  store = await target.reopen(SLOW);
  store.execute((tx) => tx.removeDirent(ROOT_FID, 'a' as Name));
  await store.sync();
  // Records 2 and 3 of the earlier instance lie behind the first of this one.
  assert.equal(recordsAt(target).length, 3);
  assert.deepEqual(namesOf(await target.crash(() => false, SLOW)), ['b', 'c']);
});

test('a target that was stopped cleanly has nothing of a log; one that was given back neither', async (t) => {
  for (const how of ['markClean', 'takeBack'] as const) {
    const target = await testTarget(t);
    const before = await features(target);
    const store = await target.open(SLOW);
    assert.equal(await features(target), before | FEATURE_REDO_LOG);
    createFile(store, 'f');
    await store.sync();
    await store[how]();
    await store.close();
    assert.equal(await features(target), before);
    const db = metaMedium(target.devices).open({ readOnly: true });
    assert.equal(db.get(bareKey(KEY.redoLog)), undefined);
    await db.close();
    target.store = undefined;
    assert.deepEqual(namesOf(await target.open(SLOW)), ['f']);
  }
});

test('a server that wants no log applies the one it finds, and has none', async (t) => {
  const target = await testTarget(t);
  createFile(await target.open(SLOW), 'f');
  await target.store?.sync();
  const before = await features(target);
  const seen = watched(target);
  const medium = target.devices.metaMedium;
  const store = await target.crash(() => false, { ...SLOW, redoLog: false });
  assert.deepEqual(namesOf(store), ['f']);
  assert.equal((await features(target)) & FEATURE_REDO_LOG, 0);
  assert.notEqual(before & FEATURE_REDO_LOG, 0);
  createFile(store, 'g');
  await store.sync();
  assert.equal(seen.logWrites, 0);
  assert.notEqual(medium, undefined);
});

test('a tree that reaches into the place of the log gets no log', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const store = await target.open({ ...SLOW, redoLog: false });
  const { offset } = logPlace(target.devices.metaSizeBytes);
  const fid = createFile(store, 'f');
  for (let number = 0; ; number++) {
    store.execute((tx) => tx.putXattr(fid, `user.${number}`, Buffer.alloc(60_000)), { reserve: 'own' });
    if (number % 8 !== 0) continue;
    await store.sync();
    if (((await lastPage(target)) + 1) * 4096 > offset) break;
  }
  // The pages become free, and the tree still ends where it ended.
  store.execute(
    (tx) => {
      for (const name of store.xattrNames(fid)) tx.removeXattr(fid, name);
    },
    { reserve: 'own' },
  );
  const again = await target.reopen(SLOW);
  assert.equal((await features(target)) & FEATURE_REDO_LOG, 0);
  createFile(again, 'g');
  assert.deepEqual(namesOf(await target.crash(() => false, SLOW)), ['f']);
});

test('a log, or a checkpoint, that fails stops the target; what was synced is there after the next start', async (t) => {
  const target = await testTarget(t);
  const seen = watched(target);
  const store = await target.open(SLOW);
  createFile(store, 'synced');
  await store.sync();
  seen.onLog = failing('the log is gone');
  createFile(store, 'lost');
  await assert.rejects(store.sync(), { code: 'EIO', message: /the log is gone/ });
  assert.throws(() => createFile(store, 'more'), { code: 'EIO' });
  delete seen.onLog;
  const second = await target.crash(() => false, SLOW);
  assert.deepEqual(namesOf(second), ['synced']);
  createFile(second, 'also');
  await second.sync();
  seen.onTree = failing('the tree is gone');
  // The checkpoint comes by itself, a second later.
  assert.match((await second.failed).message, /the tree is gone/);
  assert.throws(() => createFile(second, 'more'), { code: 'EIO' });
  delete seen.onTree;
  assert.deepEqual(namesOf(await target.crash(() => false, SLOW)), ['synced', 'also']);
});

test('fsck sees what the log has, names and content; a repair applies it', async (t) => {
  const target = await leftWithLog(t);
  const { writes } = target.devices.data;
  const found = await fsckTarget(target.runtime, target.devices, { checksums: true });
  assert.deepEqual([found.findings, found.counts.inodes, target.devices.data.writes], [[], 3, writes]);
  assert.notEqual((await features(target)) & FEATURE_REDO_LOG, 0, 'a check changes nothing');
  await assert.rejects(fsckTarget(target.runtime, target.devices, { repair: true }), { code: 'EBUSY' });
  const repaired = await fsckTarget(target.runtime, target.devices, {
    repair: true,
    force: true,
    checksums: true,
  });
  assert.deepEqual([repaired.findings, repaired.counts.inodes], [[], 3]);
  assert.equal((await features(target)) & FEATURE_REDO_LOG, 0);
  const store = await target.open(SLOW);
  assert.deepEqual(await contentOf(store, 'g'), Buffer.alloc(8192, 6));
});

test('fsck says that the state of the log is damaged, checks the rest, and leaves the log behind if it may', async (t) => {
  const target = await leftWithLog(t);
  const db = metaMedium(target.devices).open();
  await db.commit((writer) => writer.put(bareKey(KEY.redoLog), Buffer.alloc(44, 1)));
  await db.close();
  await assert.rejects(target.open(SLOW), { code: 'EIO', message: /state of the redo log/ });
  const found = await fsckTarget(target.runtime, target.devices);
  assert.deepEqual(
    [found.left, found.repairable, found.findings.map(({ kind }) => kind), found.counts.inodes],
    [1, 1, ['redo-log'], 2],
  );
  const repaired = await fsckTarget(target.runtime, target.devices, { repair: true, force: true });
  assert.deepEqual([repaired.left, repaired.repaired], [0, 1]);
  target.store = undefined;
  assert.deepEqual(namesOf(await target.open(SLOW)), ['f']);
});

test('grow applies a log before it moves the end of the device', async (t) => {
  const target = await leftWithLog(t);
  truncateSync(target.devices.metaPath, 64 * MIB);
  const devices = { ...target.devices, metaSizeBytes: 64 * MIB };
  const claim = async (): Promise<{ check: () => undefined; lost: Promise<never> }> => ({
    check: () => undefined,
    lost: new Promise<never>(() => undefined),
  });
  const grown = await growTarget(target.runtime, devices, { force: true, claim });
  assert.equal(grown.superblock.featuresIncompat & FEATURE_REDO_LOG, 0);
  target.devices = devices;
  const store = await target.open(SLOW);
  assert.deepEqual(namesOf(store), ['f', 'g']);
  assert.deepEqual(await contentOf(store, 'g'), Buffer.alloc(8192, 6));
});

test('readers see the tree and what waits as one, in order, with limits', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const db = await logged(target);
  t.after(() => db.close());
  assert.ok(db.start(1));
  await db.commit(() => undefined, { through: true, log: 'begins' });
  const model = new Map<string, Buffer>();
  let seed = 3;
  const random = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((seed / 2 ** 31) * below);
  };
  const key = (): Buffer => fidNumberKey(KEY.direntByCookie, (250 + random(8)) as Fid, random(20));
  const text = (of: Buffer): string => of.toString('hex');
  const compare = (start: Buffer, end: Buffer, limit: number): void => {
    const expected = [...model.keys()]
      .sort()
      .filter((of) => of >= text(start) && of < text(end))
      .slice(0, limit);
    const found = [...db.range(start, end, limit)];
    assert.deepEqual(
      found.map((record) => [text(record.key), record.value]),
      expected.map((of) => [of, model.get(of)]),
    );
  };
  for (let round = 0; round < 600; round++) {
    const changes = Array.from({ length: 1 + random(6) }, () => {
      return { key: key(), value: random(3) === 0 ? undefined : Buffer.alloc(1 + random(90), round & 0x7f) };
    });
    await db.commit(
      (writer) => {
        for (const change of changes) {
          if (change.value === undefined) writer.remove(change.key);
          else writer.put(change.key, change.value);
        }
      },
      { content: [], through: random(30) === 0 },
    );
    for (const change of changes) {
      if (change.value === undefined) model.delete(text(change.key));
      else model.set(text(change.key), change.value);
    }
    const one = key();
    const found = db.get(one);
    assert.deepEqual(found && Buffer.from(found), model.get(text(one)));
    // What a caller does to the view changes nothing.
    found?.fill(0xff);
    const prefix = one.subarray(0, 9);
    compare(prefix, afterPrefix(prefix), [1, 3, 1000][random(3)] ?? 1);
    compare(one, afterPrefix(prefix), 5);
    compare(bareKey(KEY.direntByCookie), afterPrefix(bareKey(KEY.direntByCookie)), 1 + random(200));
    db.checkInvariants();
  }
});

const RECORD: LogRecord = {
  instance: 7,
  sequence: 9,
  changes: [
    { key: Buffer.from('0102', 'hex'), value: Buffer.from('aabbcc', 'hex') },
    { key: Buffer.from('03', 'hex'), value: undefined },
  ],
  content: [{ offset: 65_536, bytes: Buffer.alloc(4096, 0xdd) }],
};

test('bytes of a record and of the state', () => {
  const target = Buffer.alloc(logRecordBytes(RECORD), 0x55);
  const encoded = encodeLogRecord(RECORD, UUID, tableChecksum, target);
  assert.equal(encoded.length, 8192);
  assert.equal(
    encoded.subarray(0, 90).toString('hex'),
    '48466c6f67303031' + // magic
      '56100000' + // 4182 bytes
      encoded.subarray(12, 16).toString('hex') +
      '00000000000040008000000000000001' + // target
      '07000000' + // instance
      '00000000' + // flags
      '0900000000000000' + // sequence
      '02000000' + // changes
      '01000000' + // pieces
      '0200' +
      '03000000' +
      '0102' +
      'aabbcc' +
      '0100' +
      'ffffffff' +
      '03' +
      '0000010000000000' +
      '00100000' +
      'dddddddd',
  );
  assert.equal(encoded.readUInt32LE(12), tableChecksum.crc32cBlocks(encoded.subarray(16, 4182), 4166)[0]);
  const expected = { targetUuid: UUID, instance: 7, sequence: 9 };
  assert.deepEqual(decodeLogRecord(encoded, expected, tableChecksum), RECORD);
  const flushed = { ...RECORD, content: undefined };
  const other = encodeLogRecord(flushed, UUID, tableChecksum, Buffer.alloc(logRecordBytes(flushed)));
  assert.equal(other.readUInt32LE(36), 1);
  assert.deepEqual(decodeLogRecord(other, expected, tableChecksum), flushed);
  const state = { place: logPlace(32 * MIB), instance: 7, sequence: 9, next: 8192 };
  assert.deepEqual(state.place, { offset: 30 * MIB, bytes: 2 * MIB });
  const value = encodeLogState(state, tableChecksum);
  assert.equal(
    value.subarray(0, 40).toString('hex'),
    '01000000' +
      '07000000' +
      '0000e00100000000' +
      '0000200000000000' +
      '0900000000000000' +
      '0020000000000000',
  );
  assert.deepEqual(decodeLogState(value, 32 * MIB, tableChecksum), state);
  assert.throws(() => decodeLogState(value, 16 * MIB, tableChecksum), { code: 'EIO' });
});

test('a record with any byte changed, of another target, instance or number, is none', () => {
  const encoded = encodeLogRecord(RECORD, UUID, tableChecksum, Buffer.alloc(logRecordBytes(RECORD)));
  const expected = { targetUuid: UUID, instance: 7, sequence: 9 };
  for (const wrong of [
    { ...expected, instance: 8 },
    { ...expected, sequence: 10 },
    { ...expected, targetUuid: '00000000-0000-4000-8000-000000000002' as TargetUuid },
  ]) {
    assert.equal(decodeLogRecord(encoded, wrong, tableChecksum), undefined);
  }
  for (let at = 0; at < 4182; at += at < 100 ? 1 : 97) {
    const changed = Buffer.from(encoded);
    changed[at] = (changed[at] ?? 0) ^ 0x41;
    assert.equal(decodeLogRecord(changed, expected, tableChecksum), undefined, `byte ${at}`);
  }
  for (const length of [0, 8, 55, 4181]) {
    assert.equal(decodeLogRecord(encoded.subarray(0, length), expected, tableChecksum), undefined);
  }
});
