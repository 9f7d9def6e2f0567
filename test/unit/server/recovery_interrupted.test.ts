/** Recoveries that do not go straight: crashes, lost connections, slow clients and such that do not fit. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, ROOT_FID, type Transno } from '../../../src/base/ids.js';
import { Fallocate, Sync, Write } from '../../../src/wire/data.js';
import { FLAG_RECOVERY } from '../../../src/wire/header.js';
import { Enqueue } from '../../../src/wire/lock.js';
import { Getattr, Setattr, Unlink } from '../../../src/wire/meta.js';
import { RecoveryDone, Replayed, ReplayLocks } from '../../../src/wire/session.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const RECOVERY = { flags: FLAG_RECOVERY };

interface Setting {
  readonly world: ServerWorld;
  readonly c: RawClient;
  readonly d: RawClient;
  /** A directory of each of them: in one they would wait for commits. */
  readonly ofC: Fid;
  readonly ofD: Fid;
}

async function setting(t: TestContext): Promise<Setting> {
  const world = await serverWorld(t);
  await world.server();
  const [c, d] = [await world.replaying('c'), await world.replaying('d')];
  const ofC = (await c.mkdir('c')).attr.fid;
  const ofD = (await d.mkdir('d')).attr.fid;
  await c.call(Sync, {});
  return { world, c, d, ofC, ofD };
}

async function exists(c: RawClient, name: string, parent: Fid): Promise<boolean> {
  return (await c.lookup(name, parent)).attr !== undefined;
}

test('a crash in the middle of the replays: those that became durable are not asked for again', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  world.hold();
  for (const name of ['1', '2']) await c.create(name, { parent: ofC });
  await d.create('1', { parent: ofD });
  await c.create('3', { parent: ofC });
  await world.crash();
  const second = await world.server();
  await c.connect();
  const [one, two, three] = c.uncommitted();
  assert.ok(one !== undefined && two !== undefined && three !== undefined);
  assert.deepEqual([await c.replay(one), await c.replay(two)], [0, 0]);
  await second.target?.store.sync();
  // The third waits for that of d, which is away.
  c.replay(three).catch(() => undefined);
  await world.crash();
  const third = await world.server();
  const [ofTheThird, ofD3] = await Promise.all([c.comeBack(), d.comeBack()]);
  assert.deepEqual([ofTheThird.replays, ofD3.replays, third.status().recovery?.replayed], [[0], [0], 2]);
  assert.deepEqual([await exists(c, '3', ofC), await exists(d, '1', ofD)], [true, true]);
});

test('a crash in the middle of lock replay: the next instance has them again', async (t) => {
  const { world, c, d, ofC } = await setting(t);
  const { fid } = (await c.create('f', { parent: ofC })).attr;
  await c.call(Sync, {});
  const lock = { fid, type: 'data', mode: 'PW' } as const;
  await c.call(Enqueue, lock);
  for (let crash = 0; crash < 2; crash += 1) {
    await world.crash();
    await world.server();
    await c.connect();
    assert.equal((await c.replayAll([], [lock])).locks.length, 1);
  }
  c.call(RecoveryDone, {}, RECOVERY).catch(() => undefined);
  await world.crash();
  await world.server();
  const [again] = await Promise.all([c.comeBack([], [lock]), d.comeBack()]);
  const wanted = d.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  await wanted;
  assert.deepEqual(
    c.basts.map(({ handle }) => handle),
    again.locks,
  );
});

test('a crash while orphans are being removed: the rest goes at the next start', async (t) => {
  const { world, c, d, ofC } = await setting(t);
  const count = 600;
  for (let index = 0; index < count; index += 1) {
    await c.create(`${index}`, { parent: ofC, fh: c.newFh(), flags: 2 });
    await c.call(Unlink, { parent: ofC, name: nameOf(`${index}`), directory: false });
  }
  await c.call(Sync, {});
  await world.crash();
  const second = await world.server();
  const back = Promise.all([c.comeBack(), d.comeBack()]);
  back.catch(() => undefined);
  await world.time.until(
    'the removal has begun',
    () => second.state === 'active' && second.status().orphans < count,
  );
  const left = second.status().orphans;
  await second.target?.store.sync();
  await world.crash();
  assert.ok(left > 0, 'it takes several steps');
  const third = await world.server();
  await Promise.all([c.comeBack(), d.comeBack()]);
  await world.time.until('all are gone', () => third.status().orphans === 0);
});

test('a client that replays slowly, but goes on, has time beyond the limit', async (t) => {
  const { world, c, d, ofC } = await setting(t);
  world.hold();
  for (let index = 0; index < 8; index += 1) await c.create(`${index}`, { parent: ofC });
  await world.crash();
  const next = await world.server({ recoveryHardMs: 1500 });
  const dBack = d.comeBack();
  await c.connect();
  const started = world.time.clock.nowMs();
  for (const one of c.uncommitted()) {
    assert.equal(await c.replay(one), 0);
    await world.time.sleep(200);
  }
  assert.ok(world.time.clock.nowMs() - started > 1500);
  await c.call(Replayed, {}, RECOVERY);
  await c.recover();
  await dBack;
  assert.deepEqual([next.state, next.status().evicted], ['active', []]);
});

test('a client that dies while it replays is evicted at its limit; what others did after it is replayed then', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  world.hold();
  await c.create('1', { parent: ofC });
  await d.create('1', { parent: ofD });
  await c.create('2', { parent: ofC });
  await d.create('2', { parent: ofD });
  await world.crash();
  const next = await world.server({ recoverySoftMs: 5000, recoveryHardMs: 200 });
  await c.connect();
  const [first] = c.uncommitted();
  assert.ok(first !== undefined);
  await c.replay(first);
  await c.lose();
  const { replays } = await d.comeBack();
  const { evicted } = next.status();
  assert.deepEqual([replays, evicted.map(({ name }) => name)], [[0, 0], ['c']]);
  assert.match(evicted[0]?.reason ?? '', /did not finish its recovery/);
  assert.deepEqual(
    [await exists(d, '1', ofC), await exists(d, '2', ofC), await exists(d, '2', ofD)],
    [true, false, true],
  );
});

test('a connection lost in the middle of the replays: all of them come again, and each is executed once', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  world.hold();
  const { fid } = (await c.create('f', { parent: ofC })).attr;
  await c.call(Setattr, { fid, mode: 0o700 });
  await d.create('f', { parent: ofD });
  await c.call(Unlink, { parent: ofC, name: nameOf('f'), directory: false });
  await world.crash();
  const next = await world.server();
  await c.connect();
  const pending = c.uncommitted().map((one) => c.replay(one));
  assert.deepEqual(await Promise.all(pending.slice(0, 2)), [0, 0]);
  assert.equal(next.status().recovery?.queued, 1);
  await c.lose();
  assert.equal(next.status().recovery?.queued, 0);
  assert.equal((await c.connect()).outcome, 'recover');
  const again = c.uncommitted().map((one) => c.replay(one));
  const dBack = d.comeBack();
  assert.deepEqual(await Promise.all(again), [0, 0, 0]);
  await c.call(Replayed, {}, RECOVERY);
  await c.recover();
  await dBack;
  assert.deepEqual([next.status().recovery?.replayed, next.status().evicted], [4, []]);
});

test('locks replayed a second time, after a lost connection, are the same ones', async (t) => {
  const { world, c, d, ofC } = await setting(t);
  const { fid } = (await c.create('f', { parent: ofC })).attr;
  const { fid: other } = (await c.create('g', { parent: ofC })).attr;
  await c.call(Sync, {});
  await world.crash();
  const next = await world.server();
  const lock = { fid, type: 'data', mode: 'PR' } as const;
  const given = { fid: other, type: 'data', mode: 'PW' } as const;
  await c.connect();
  const first = await c.replayAll([], [lock, lock, given]);
  c.call(RecoveryDone, {}, RECOVERY).catch(() => undefined);
  await world.time.until('it is done', () => next.status().recovery?.waitedFor === 1);
  const dBack = d.comeBack();
  await world.time.until('the window is over', () => next.state === 'active');
  // It did not hear of it, and goes through it once more, without the lock that it has given up meanwhile.
  assert.equal((await c.connect()).outcome, 'recover');
  const second = await c.replayAll([], [lock, lock]);
  await c.recover();
  await c.goOn();
  await dBack;
  assert.deepEqual(second.locks, first.locks.slice(0, 2));
  await d.call(Enqueue, given);
  assert.deepEqual(c.basts, []);
});

test('a replay that fails evicts its client, alone, and says why everywhere', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  world.hold();
  await c.create('f', { parent: ofC });
  await d.create('f', { parent: ofD });
  await world.crash();
  const next = await world.server();
  const dBack = d.comeBack();
  await c.connect();
  const [one] = c.uncommitted();
  assert.ok(one !== undefined);
  const broken = { ...one, request: { ...(one.request as object), parent: (ofC + 5000) as Fid } };
  assert.notEqual(await c.replay(broken), 0);
  await world.time.until('it is told', () => c.closed);
  const reason = /replay of CREATE \(transno \d+\) failed: ESTALE/;
  assert.match(c.evictions[0] ?? '', reason);
  assert.match(next.status().evicted[0]?.reason ?? '', reason);
  assert.ok(world.said.some((text) => text.includes('client c (') && reason.test(text)));
  const { outcome, reason: told } = await c.connect();
  assert.deepEqual([outcome, reason.test(told ?? '')], ['evicted', true]);
  assert.deepEqual((await dBack).replays, [0]);
});

test('replays that cannot be of this target evict who sends them', async (t) => {
  const { world, c, d, ofC } = await setting(t);
  world.hold();
  await c.create('f', { parent: ofC });
  await c.create('g', { parent: ofC });
  const [first, second] = c.uncommitted().slice(-2);
  assert.ok(first !== undefined && second !== undefined);
  const wrong: readonly [RegExp, () => void][] = [
    [/is of no earlier server/, () => void c.replay({ ...first, transno: (2 ** 40) as Transno })],
    [
      /which changes nothing/,
      () => void c.replay({ ...first, operation: Getattr as never, request: { fid: ofC } }),
    ],
    [
      /out of order/,
      () => void [c.replay({ ...second, transno: (second.transno + 1) as Transno }), c.replay(first)],
    ],
  ];
  for (const [reason, send] of wrong) {
    await world.crash();
    const next = await world.server();
    // Nothing of the eviction becomes durable: the next instance knows the client again.
    world.hold();
    assert.equal((await c.connect()).outcome, 'recover');
    send();
    await world.time.until('it is evicted', () => next.status().evicted.length === 1);
    assert.match(next.status().evicted[0]?.reason ?? '', reason);
  }
  await world.crash();
  const last = await world.server();
  await Promise.all([c.comeBack(), d.comeBack()]);
  // In normal operation nothing is replayed.
  void c.replay({ ...first, transno: ((last.target?.store.lastTransno ?? 0) + 1) as Transno });
  await world.time.until('it is evicted', () => last.status().evicted.length === 1);
});

test('a shutdown in the middle of the replays leaves no mark: the same version goes on, another one refuses', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  world.hold();
  await c.create('1', { parent: ofC });
  await d.create('1', { parent: ofD });
  await c.create('2', { parent: ofC });
  await d.create('2', { parent: ofD });
  await world.crash();
  const second = await world.server();
  await c.connect();
  const sent = c.uncommitted().map((one) => c.replay(one));
  assert.equal(await sent[0], 0);
  assert.equal(await second.shutdown(), 'unmarked');
  assert.ok(world.said.some((text) => /without the clean mark.*only this version/.test(text)));
  await assert.rejects(world.server({ softwareVersion: '2.0.0' }), { code: 'EPERM' });
  const third = await world.server();
  await c.connect();
  assert.equal(third.status().recovery?.clients, 2);
  await c.lose();
  assert.equal(await third.shutdown(), 'unmarked');
  const fourth = await world.server();
  const back = await Promise.all([c.comeBack(), d.comeBack()]);
  assert.deepEqual([back.map(({ replays }) => replays), fourth.status().evicted], [[[0], [0, 0]], []]);
  assert.deepEqual([await exists(c, '2', ofC), await exists(d, '2', ofD)], [true, true]);
});

test('after a change of the version a client that replays is evicted, whatever it said', async (t) => {
  const { world, c, d, ofC } = await setting(t);
  await c.create('f', { parent: ofC });
  const [one] = c.answered.slice(-1);
  assert.ok(one !== undefined);
  const stopping = world.last.shutdown();
  for (const client of [c, d]) {
    await world.time.until('it is called back', () => client.basts.length > 0);
    await client.giveUpActive();
  }
  assert.equal(await stopping, 'clean');
  const next = await world.server({ softwareVersion: '2.0.0' });
  assert.equal((await c.connect()).outcome, 'recover');
  void c.replay({ ...one, transno: (one.transno + 1) as Transno });
  await world.time.until('it is evicted', () => next.status().evicted.length === 1);
  const reason = /version 1\.0\.0 of the server did not complete.*2\.0\.0/;
  assert.match(c.evictions[0] ?? '', reason);
  assert.match(next.status().evicted[0]?.reason ?? '', reason);
  assert.ok(world.said.some((text) => reason.test(text)));
});

test('a client whose answers are all durable holds nobody up as soon as it is back', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  const lastTransno = d.answered.at(-1)?.transno;
  world.hold();
  await c.create('1', { parent: ofC });
  // Its answer is lost: it will be sent again, not replayed.
  d.deaf = true;
  const lost = d.create('lost', { parent: ofD });
  await world.time.until(
    'it is executed',
    () => world.last.target?.store.dirent(ofD, nameOf('lost')) !== undefined,
  );
  await c.create('2', { parent: ofC });
  await world.crash();
  d.deaf = false;
  const next = await world.server();
  await c.connect();
  const sent = c.uncommitted().map((one) => c.replay(one));
  assert.equal(await sent[0], 0);
  assert.equal(next.status().recovery?.queued, 1);
  await d.connect({ lastTransno, hasMoreThanOpens: true });
  assert.equal(await sent[1], 0);
  await Promise.all([c.recover(), d.recover()]);
  await d.goOn();
  assert.equal((await lost).existed, false);
});

test('a client that sends a lot is not read from until its replays have their turn', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  const { fid } = (await c.create('f', { parent: ofC })).attr;
  await c.call(Sync, {});
  world.hold();
  await d.create('1', { parent: ofD });
  const mtime = { sec: 1, nsec: 0 };
  for (let mib = 0; mib < 24; mib += 1) {
    const bulk = [Buffer.alloc(1 << 20, mib)];
    await c.call(Write, { fid, offset: mib << 20, mtime, grantUsed: 0 }, { bulk });
  }
  await c.call(Fallocate, { fid, mode: 0, offset: 0, length: 4096 });
  await world.crash();
  const next = await world.server();
  await c.connect();
  const cDone = c.replayAll();
  const queued = (): number => next.status().recovery?.queued ?? 0;
  await world.time.until('as much is queued as may be', () => queued() === 8);
  await d.connect();
  await Promise.all([cDone, d.replayAll()]);
  assert.deepEqual([queued(), next.status().recovery?.replayed], [0, 26]);
});

test('status tells how far the recovery is, while it lasts and after', async (t) => {
  const { world, c, d, ofC, ofD } = await setting(t);
  world.hold();
  await c.create('1', { parent: ofC });
  await d.create('1', { parent: ofD });
  await c.create('2', { parent: ofC });
  await world.crash();
  const next = await world.server({ recoverySoftMs: 4000, recoveryHardMs: 9000 });
  const recovery = () => {
    const status = next.status().recovery;
    assert.ok(status !== undefined);
    const { leftMs, tookMs, ...counts } = status;
    assert.ok(tookMs < 4000 && (counts.open ? leftMs > 1000 && leftMs <= 4000 : leftMs === 0), `${leftMs}`);
    return counts;
  };
  await c.connect();
  const sent = c.uncommitted().map((one) => c.replay(one));
  await sent[0];
  assert.deepEqual(recovery(), { open: true, clients: 2, waitedFor: 2, away: 1, replayed: 1, queued: 1 });
  await Promise.all([d.comeBack(), Promise.all(sent).then(() => c.recover())]);
  assert.deepEqual(recovery(), { open: false, clients: 2, waitedFor: 0, away: 0, replayed: 3, queued: 0 });
});

test('before its recovery is through a client has nothing new executed', async (t) => {
  const { world, c, d } = await setting(t);
  await world.crash();
  await world.server();
  await c.connect();
  const late = c.create('late');
  const lock = await c.call(
    ReplayLocks,
    { locks: [{ fid: ROOT_FID, type: 'inode', mode: 'PR', bits: 3 }] },
    RECOVERY,
  );
  assert.equal(lock.handles.length, 1);
  await Promise.all([c.recover(), d.comeBack()]);
  assert.equal((await late).existed, false);
});
