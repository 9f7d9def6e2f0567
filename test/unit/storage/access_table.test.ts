/**
 * The access table of a target, and the feature bit that keeps releases off that do not know it: whenever the power goes,
 * the bit is there if and only if the table has an entry.
 */

import assert from 'node:assert/strict';
import { truncateSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { type ClientUuid, type Fid, type Name, ROOT_FID, type Transno } from '../../../src/base/ids.js';
import { Deferred } from '../../../src/base/wait.js';
import type { AccessRecord, TargetStore, Tx, WriteGuard } from '../../../src/storage/api.js';
import { accessKey, bareKey, KEY } from '../../../src/storage/format/keys.js';
import { logPlace } from '../../../src/storage/format/log_record.js';
import {
  encodeSuperblock,
  FEATURE_ACCESS,
  FEATURE_ALL_CHECKSUMS,
  FEATURE_CHECKSUMS,
  FEATURE_REDO_LOG,
} from '../../../src/storage/format/superblock.js';
import { fsckTarget } from '../../../src/storage/fsck/fsck.js';
import { growTarget } from '../../../src/storage/grow.js';
import { metaMedium } from '../../../src/storage/meta/lmdb_store.js';
import { LMDB_PAGE_BYTES } from '../../../src/storage/meta/meta_probe.js';
import { checkedRecords } from '../../../src/storage/meta/record_checksums.js';
import type { MetaDatabase, Writer } from '../../../src/storage/meta_medium.js';
import { formatTarget } from '../../../src/storage/mkfs.js';
import { openTarget, readSuperblock } from '../../../src/storage/target.js';
import { accessEntry, accessKeyOf } from '../../fixtures/access_entries.js';
import { features, namesOf, SLOW, watched } from '../../fixtures/logged_target.js';
import { createFile, MIB, type TestDevices, TestTarget, testTarget } from '../../fixtures/storage_target.js';

function put(store: TargetStore, ...records: readonly AccessRecord[]): void {
  store.execute((tx) => {
    for (const record of records) tx.putAccess(record);
  });
}
function remove(store: TargetStore, ...names: readonly string[]): void {
  store.execute(
    (tx) => {
      for (const name of names) tx.removeAccess(name);
    },
    { reserve: 'own' },
  );
}
function namesIn(store: TargetStore): string {
  return store
    .access()
    .map(({ name }) => name)
    .join(' ');
}
function hasBit({ superblock }: TargetStore): boolean {
  return (superblock.featuresIncompat & FEATURE_ACCESS) !== 0;
}
async function hasStoredBit(target: TestTarget): Promise<boolean> {
  return ((await features(target)) & FEATURE_ACCESS) !== 0;
}
async function stop(target: TestTarget): Promise<void> {
  await target.store?.markClean();
  await target.store?.close();
  target.store = undefined;
}
/** Changes records of a target that is not served. */
async function damage(target: TestTarget, write: (writer: Writer, db: MetaDatabase) => void): Promise<void> {
  const superblock = await readSuperblock(target.runtime, target.devices);
  const db = checkedRecords(metaMedium(target.devices).open(), target.runtime.checksum, superblock);
  try {
    await db.commit((writer) => write(writer, db));
  } finally {
    await db.close();
  }
}

test('entries are there at once, in order of name, and after a restart; the bit comes and goes with them', async (t) => {
  const target = await testTarget(t);
  let store = await target.open(SLOW);
  const a = accessEntry('a', { limits: { clients: 2, unknown: [{ what: 9, value: 1 }] } });
  const b = accessEntry('b', { keys: [accessKeyOf(2), accessKeyOf(3, { untilMs: 5000 })] });
  const c = accessEntry('c', { kind: 'certificate', keys: [], from: ['10.0.0.0/8'], admin: true });
  const before = store.superblock.featuresIncompat;
  put(store, c, a);
  assert.deepEqual(store.access(), [a, c]);
  await store.sync();
  assert.equal(store.superblock.featuresIncompat, before | FEATURE_ACCESS);
  assert.equal(await features(target), before | FEATURE_ACCESS);
  put(store, b);
  remove(store, 'a', 'not there', 'no/name');
  const syncing = store.sync();
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  // c is stored, b is being committed, a is collected.
  put(store, a);
  assert.deepEqual(store.access(), [a, b, c]);
  await syncing;
  assert.deepEqual(store.access(), [a, b, c]);
  store = await target.reopen(SLOW);
  assert.deepEqual([store.access(), hasBit(store)], [[a, b, c], true]);
  const rotated = { ...b, keys: b.keys.slice(1) };
  put(store, rotated);
  remove(store, 'a');
  await store.sync();
  store = await target.crash(() => false, SLOW);
  assert.deepEqual([store.access(), hasBit(store)], [[rotated, c], true]);
  remove(store, 'b', 'c');
  await store.sync();
  assert.deepEqual([store.access(), hasBit(store), await hasStoredBit(target)], [[], false, false]);
  store = await target.reopen(SLOW);
  assert.deepEqual([store.access(), hasBit(store)], [[], false]);
});

test('an operation that throws, an entry that is none, and keys that change later leave nothing behind', async (t) => {
  const target = await testTarget(t);
  const store = await target.open(SLOW);
  const key = accessKeyOf(7);
  put(store, accessEntry('kept', { keys: [key] }));
  key.secret.fill(0);
  const invalid = accessEntry('x', { keys: [] });
  const changes: readonly ((tx: Tx) => void)[] = [
    (tx) => {
      tx.putAccess(accessEntry('y'));
      tx.removeAccess('kept');
      assert.deepEqual(
        tx.access().map(({ name }) => name),
        ['y'],
      );
      tx.putAccess(invalid);
    },
    (tx) => tx.putAccess(accessEntry('no/name')),
  ];
  for (const change of changes) assert.throws(() => store.execute(change), { code: 'EINVAL' });
  assert.deepEqual(store.access(), [accessEntry('kept', { keys: [accessKeyOf(7)] })]);
  await store.sync();
  const again = await target.reopen(SLOW);
  assert.deepEqual(again.access(), [accessEntry('kept', { keys: [accessKeyOf(7)] })]);
});

test('the ticket secret comes and goes with the entries, and survives a crash', async (t) => {
  const target = await testTarget(t);
  let store = await target.open(SLOW);
  assert.equal(store.ticketSecret(), undefined);
  const secret = Buffer.alloc(32, 9);
  store.execute((tx) => {
    tx.putAccess(accessEntry('a'));
    tx.putTicketSecret(secret);
  });
  secret.fill(0);
  assert.deepEqual(store.ticketSecret(), Buffer.alloc(32, 9));
  await store.sync();
  assert.deepEqual(store.ticketSecret(), Buffer.alloc(32, 9));
  store = await target.crash(() => false, SLOW);
  assert.deepEqual(store.ticketSecret(), Buffer.alloc(32, 9));
  assert.throws(() => store.execute((tx) => tx.putTicketSecret(Buffer.alloc(31))), { code: 'EINVAL' });
  store.execute((tx) => {
    tx.removeAccess('a');
    tx.putTicketSecret(undefined);
  });
  await store.sync();
  store = await target.reopen(SLOW);
  assert.equal(store.ticketSecret(), undefined);
});

test('fsck removes a ticket secret that no entry needs', async (t) => {
  const target = await testTarget(t);
  await target.open(SLOW);
  await stop(target);
  await damage(target, (writer) => writer.put(bareKey(KEY.ticketSecret), Buffer.alloc(33, 1)));
  const check = async (repair: boolean): Promise<readonly string[]> =>
    (await fsckTarget(target.runtime, target.devices, { repair })).findings.map(({ text }) => text);
  assert.deepEqual(await check(false), ['there is a ticket secret and no access entry']);
  await check(true);
  assert.deepEqual(await check(false), []);
});

test('a put and a removal in one batch leave no bit; nor does a removal with a put leave none', async (t) => {
  const target = await testTarget(t);
  const store = await target.open(SLOW);
  put(store, accessEntry('a'));
  remove(store, 'a');
  await store.sync();
  assert.deepEqual([hasBit(store), await hasStoredBit(target)], [false, false]);
  put(store, accessEntry('a'));
  await store.sync();
  remove(store, 'a');
  put(store, accessEntry('b'));
  await store.sync();
  assert.deepEqual([namesIn(store), await hasStoredBit(target)], ['b', true]);
});

test('what changes the superblock keeps the bit as the table has it: begin, the clean mark, taking back', async (t) => {
  const target = await testTarget(t);
  const begin = async (within?: (tx: Tx) => void): Promise<TargetStore> => {
    const store = await openTarget(target.runtime, target.devices, SLOW);
    target.store = store;
    await store.begin('1.0.0', { within });
    return store;
  };
  const state = async (): Promise<readonly [string, boolean, boolean]> => {
    const store = target.store ?? assert.fail('it is open');
    return [namesIn(store), hasBit(store), await hasStoredBit(target)];
  };
  let store = await begin((tx) => tx.putAccess(accessEntry('a')));
  assert.deepEqual(await state(), ['a', true, true]);
  await store.takeBack();
  await store.close();
  store = await begin((tx) => tx.removeAccess('a'));
  assert.deepEqual(await state(), ['', false, false]);
  // In the transaction of the clean mark.
  put(store, accessEntry('b'));
  await store.markClean();
  assert.deepEqual([store.superblock.clean, ...(await state())], [true, 'b', true, true]);
  await store.close();
  store = await begin();
  remove(store, 'b');
  await store.takeBack();
  assert.deepEqual([store.superblock.clean, ...(await state())], [true, '', false, false]);
  await store.close();
  store = await begin();
  assert.deepEqual(await state(), ['', false, false]);
});

test('a change that a commit under way makes is in the clean mark that was asked for before', async (t) => {
  const target = await testTarget(t);
  const seen = watched(target);
  const store = await target.open(SLOW);
  put(store, accessEntry('a'));
  const under = new Deferred<void>();
  const goesOn = new Deferred<void>();
  seen.onTree = async (commit) => {
    delete seen.onTree;
    under.resolve();
    await goesOn.promise;
    await commit();
  };
  const syncing = store.sync();
  await under.promise;
  const marking = store.markClean();
  goesOn.resolve();
  await Promise.all([syncing, marking]);
  await store.close();
  target.store = undefined;
  const { clean, featuresIncompat } = await readSuperblock(target.runtime, target.devices);
  assert.deepEqual(
    [clean, featuresIncompat & FEATURE_ACCESS, featuresIncompat & FEATURE_REDO_LOG],
    [true, FEATURE_ACCESS, 0],
  );
});

interface Left {
  readonly when: string;
  readonly devices: TestDevices;
  /** Names in the table as it may be. */
  readonly tables: readonly string[];
}

async function checkLeft({ runtime }: TestTarget, { when, devices, tables }: Left): Promise<void> {
  const superblock = await readSuperblock(runtime, devices);
  assert.deepEqual((await fsckTarget(runtime, devices)).findings, [], when);
  // The server that comes next keeps it, however it ends.
  for (const ends of ['close', 'takeBack', 'markClean'] as const) {
    const store = await openTarget(runtime, devices, SLOW);
    try {
      const names = namesIn(store);
      assert.ok(tables.includes(names), `${when}: ${names}, not one of ${JSON.stringify(tables)}`);
      if (ends === 'close') {
        // What is read before the log decides who may open the target at all.
        const isBit = (superblock.featuresIncompat & FEATURE_ACCESS) !== 0;
        assert.equal(isBit, names !== '', `${when}: ${names}`);
      }
      await store.begin('1.0.0');
      if (ends !== 'close') await store[ends]();
      assert.deepEqual([namesIn(store), hasBit(store)], [names, names !== ''], `${when}, ${ends}`);
    } finally {
      await store.close();
    }
  }
}

test('the power goes around every write: the bit is there if and only if the table has an entry, and fsck agrees', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 16 * MIB });
  let seed = 5;
  const random = (below: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((seed / 2 ** 31) * below);
  };
  const left: Left[] = [];
  /** The table after each operation since the last one that is surely durable. */
  let tables = [''];
  let moments = 0;
  const watch = (): void => {
    const seen = watched(target);
    const mayEnd = (when: string): void => {
      if (moments++ % 6 !== 0) return;
      left.push({ when: `moment ${moments}, ${when}`, devices: target.image(), tables });
    };
    seen.onLog = async (write) => {
      mayEnd('before a write to the log');
      await write();
      mayEnd('after a write to the log');
    };
    seen.onTree = async (commit) => {
      mayEnd('before a transaction');
      await commit();
      mayEnd('after a transaction');
    };
  };
  watch();
  let store = await target.open(SLOW);
  const isDurable = (): void => {
    tables = tables.slice(-1);
  };
  for (let round = 0; round < 180; round++) {
    const name = `e${random(3)}`;
    const kind = random(5);
    if (kind < 2) put(store, accessEntry(name, { createdMs: round }));
    else if (kind < 4) remove(store, name);
    else createFile(store, `f${round}`);
    tables = [...tables, namesIn(store)];
    if (random(3) === 0) {
      await store.sync();
      isDurable();
    }
    const end = random(12);
    if (end > 2) continue;
    if (end === 0) {
      await store.sync();
      await target.cutPower(() => false);
    } else {
      await store[end === 1 ? 'markClean' : 'takeBack']();
      await store.close();
    }
    isDurable();
    watch();
    store = await target.open(SLOW);
    assert.deepEqual(namesIn(store), tables[0]);
  }
  await store.close();
  target.store = undefined;
  assert.ok(left.length > 30, `${left.length} moments`);
  for (const one of left) await checkLeft(target, one);
});

/** A target whose tree reaches up to its log when the test says so. */
async function growingTarget(t: TestContext): Promise<{ target: TestTarget; grow(): void }> {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  watched(target);
  const medium = metaMedium(target.devices);
  let lastPage: number | undefined;
  const open: typeof medium.open = (options) => {
    const db = medium.open(options);
    return { ...db, use: () => ({ ...db.use(), ...(lastPage === undefined ? {} : { lastPage }) }) };
  };
  target.devices = { ...target.devices, metaMedium: { ...medium, open } };
  const grow = (): void => {
    lastPage = logPlace(target.devices.metaSizeBytes).offset / LMDB_PAGE_BYTES;
  };
  return { target, grow };
}

test('the commit that ends the log because the tree comes near it keeps the bit that it has', async (t) => {
  const { target, grow } = await growingTarget(t);
  const store = await target.open(SLOW);
  grow();
  // It does not go to the log: the check whether the log still fits would come too late for it.
  put(store, accessEntry('a'));
  await store.sync();
  const found = (await features(target)) & (FEATURE_ACCESS | FEATURE_REDO_LOG);
  assert.equal(found, FEATURE_ACCESS);
  remove(store, 'a');
  await store.sync();
  assert.equal((await features(target)) & (FEATURE_ACCESS | FEATURE_REDO_LOG), 0);
});

test('after a log that has ended by itself, no change of the table says that there is one', async (t) => {
  const { target, grow } = await growingTarget(t);
  const store = await target.open(SLOW);
  grow();
  createFile(store, 'f');
  await store.sync();
  put(store, accessEntry('a'));
  await store.sync();
  assert.equal((await features(target)) & (FEATURE_ACCESS | FEATURE_REDO_LOG), FEATURE_ACCESS);
  assert.equal(store.superblock.featuresIncompat & FEATURE_REDO_LOG, 0);
  const again = await target.crash(() => false, SLOW);
  assert.deepEqual([namesIn(again), namesOf(again)], ['a', ['f']]);
});

test('who was removed stays out, whatever becomes of the redo log', async (t) => {
  const target = await testTarget(t);
  const store = await target.open(SLOW);
  put(store, accessEntry('a'), accessEntry('b'));
  createFile(store, 'f');
  await store.sync();
  remove(store, 'a');
  await store.sync();
  await target.cutPower();
  const db = metaMedium(target.devices).open();
  await db.commit((writer) => writer.put(bareKey(KEY.redoLog), Buffer.alloc(44, 1)));
  await db.close();
  await fsckTarget(target.runtime, target.devices, { repair: true, force: true });
  assert.equal(namesIn(await target.open(SLOW)), 'b');
});

const GUARD: WriteGuard = { check: () => undefined, lost: new Promise(() => undefined) };

test('grow keeps the table and the bit, with a log that waits too', async (t) => {
  for (const isClean of [true, false]) {
    const target = await testTarget(t, { metaBytes: 16 * MIB });
    const store = await target.open(SLOW);
    put(store, accessEntry('a'));
    await store.sync();
    createFile(store, 'f');
    await store.sync();
    if (isClean) await stop(target);
    else await target.cutPower();
    truncateSync(target.devices.metaPath, 32 * MIB);
    target.devices = { ...target.devices, metaSizeBytes: 32 * MIB };
    const grown = await growTarget(target.runtime, target.devices, { force: true, claim: async () => GUARD });
    assert.equal(grown.superblock.featuresIncompat & (FEATURE_ACCESS | FEATURE_REDO_LOG), FEATURE_ACCESS);
    assert.equal(await hasStoredBit(target), true);
    assert.deepEqual((await fsckTarget(target.runtime, target.devices)).findings, []);
    const again = await target.open(SLOW);
    assert.deepEqual([namesIn(again), namesOf(again)], ['a', ['f']]);
  }
});

/** Of an earlier release: its records have no checksums. */
async function plainTarget(t: TestContext): Promise<TestTarget> {
  const target = new TestTarget(16 * MIB, 16 * MIB);
  t.after(() => target.end());
  await formatTarget(target.runtime, target.devices, { label: 'test', force: false, recordChecksums: false });
  return target;
}

test('fsck gives an access table checksums, and keeps a bit that it has just set', async (t) => {
  for (const isBitLost of [false, true]) {
    const target = await plainTarget(t);
    put(await target.open(SLOW), accessEntry('a'));
    await stop(target);
    if (isBitLost) {
      const superblock = await readSuperblock(target.runtime, target.devices);
      const value = encodeSuperblock({ ...superblock, featuresIncompat: 0 }, target.runtime.checksum);
      await damage(target, (writer) => writer.put(bareKey(KEY.superblock), value));
    }
    const options = { repair: true, addChecksums: true };
    const report = await fsckTarget(target.runtime, target.devices, options);
    assert.deepEqual([report.repaired, report.left], [isBitLost ? 1 : 0, 0]);
    const all = FEATURE_ACCESS | FEATURE_CHECKSUMS | FEATURE_ALL_CHECKSUMS;
    assert.deepEqual([report.superblock?.featuresIncompat, await features(target)], [all, all]);
    assert.equal(namesIn(await target.open(SLOW)), 'a');
  }
});

test('a damaged entry: the table says nothing then, and it can be removed or replaced; the bit counts it', async (t) => {
  const target = await testTarget(t);
  put(await target.open(SLOW), accessEntry('a'), accessEntry('b'));
  await stop(target);
  await damage(target, (writer) => {
    for (const name of ['a', 'b']) writer.put(accessKey(name), Buffer.from([1, 9]));
  });
  const damaged = { code: 'EIO', message: 'damaged record on the meta device: access entry "a"' };
  const store = await target.open(SLOW);
  assert.throws(() => store.access(), damaged);
  remove(store, 'b');
  await store.sync();
  assert.throws(() => store.access(), damaged);
  assert.equal(await hasStoredBit(target), true);
  put(store, accessEntry('a'));
  assert.equal(namesIn(store), 'a');
  remove(store, 'a');
  await store.sync();
  assert.deepEqual([namesIn(store), await hasStoredBit(target)], ['', false]);
});

test('no server serves a target that has lost its access table; after a repair it lets nobody in', async (t) => {
  const target = await testTarget(t);
  put(await target.open(SLOW), accessEntry('a'));
  await stop(target);
  await damage(target, (writer) => writer.remove(accessKey('a')));
  await assert.rejects(openTarget(target.runtime, target.devices), {
    code: 'EIO',
    message:
      /^the table of who may connect is lost on .*; holdfast fsck --repair makes one that lets nobody in$/,
  });
  const report = await fsckTarget(target.runtime, target.devices, { repair: true });
  assert.deepEqual([report.repaired, report.left], [1, 0]);
  const store = await target.open(SLOW);
  const [nobody] = store.access();
  assert.deepEqual(
    [nobody?.name, nobody?.kind, nobody?.from, nobody?.limits, hasBit(store)],
    ['nobody', 'certificate', ['0.0.0.0/32'], { clients: 0 }, true],
  );
  // As its line says.
  put(store, accessEntry('a'));
  remove(store, 'nobody');
  await store.sync();
  assert.deepEqual([namesIn(store), await hasStoredBit(target)], ['a', true]);
});

test('a full meta device has no room for an entry, and one can be removed', async (t) => {
  const target = await testTarget(t, { metaBytes: 16 * MIB });
  const store = await target.open();
  const room = async (): Promise<void> => {
    for (let wait = store.room(); wait !== undefined; wait = store.room()) await wait;
  };
  put(store, accessEntry('a'), accessEntry('b'));
  const fid: Fid = createFile(store, 'f');
  await assert.rejects(
    async () => {
      for (let number = 0; ; number++) {
        await room();
        store.execute((tx) => tx.putXattr(fid, `user.${number}`, Buffer.alloc(3900)));
      }
    },
    { code: 'ENOSPC' },
  );
  assert.throws(() => put(store, accessEntry('c')), { code: 'ENOSPC' });
  assert.equal(namesIn(store), 'a b');
  remove(store, 'a');
  await store.sync();
  // As what replaces a record, a new key finds room in what is kept for deletes.
  store.execute((tx) => tx.putAccess(accessEntry('b', { keys: [accessKeyOf(1), accessKeyOf(2)] })), {
    reserve: 'replaces',
  });
  await store.sync();
  remove(store, 'b');
  await store.sync();
  assert.deepEqual([namesIn(store), await hasStoredBit(target)], ['', false]);
  await target.reopen();
});

test("a client's record names the entry with which its session was made", async (t) => {
  const target = await testTarget(t);
  let store = await target.open(SLOW);
  const client = (digit: string, secret: string | undefined, principal: string | undefined) => ({
    uuid: `00112233-4455-6677-8899-aabbccddee0${digit}` as ClientUuid,
    ...{ name: 'c', softwareVersion: '1', lastTransno: 0 as Transno, secret, principal },
  });
  const clients = [
    client('1', 'abc', 'key:a'),
    client('2', undefined, 'certificate:b'),
    client('3', 'abc', 'plain'),
    client('4', 'abc', undefined),
    client('5', undefined, 'local'),
  ];
  store.execute((tx) => {
    for (const each of clients) tx.putClient(each);
  });
  assert.deepEqual(store.clients(), clients);
  store = await target.reopen(SLOW);
  assert.deepEqual(store.clients(), [...clients.slice(0, 4), client('5', undefined, undefined)]);
  assert.throws(() => store.execute((tx) => tx.putClient(client('6', 'abc', 'p'.repeat(81)))), /principal/);
  assert.equal(store.dirent(ROOT_FID, 'f' as Name), undefined);
});
