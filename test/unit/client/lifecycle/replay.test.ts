/** What a client does when its target crashes, against targets that do as they are told: in what order, with what bytes. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { LockHandle, Name, Transno } from '../../../../src/base/ids.js';
import { Write } from '../../../../src/wire/data.js';
import { Cancel, Enqueue, Unflock } from '../../../../src/wire/lock.js';
import { Create } from '../../../../src/wire/meta.js';
import { decode } from '../../../../src/wire/schema.js';
import { FEATURE, FEATURES_ALL, ReplayLocks } from '../../../../src/wire/session.js';
import { ScriptedTarget } from '../../../fixtures/scripted_target.js';
import { errnoOf, O_RDWR, scriptedWorld, type TestClient } from '../../../worlds/client_world.js';

interface World {
  readonly target: ScriptedTarget;
  readonly client: TestClient;
}

async function world(t: TestContext): Promise<World> {
  const target = new ScriptedTarget();
  const scripted = scriptedWorld(t, [target]);
  return { target, client: await scripted.client('a') };
}

/** The client is in again, with this instance. */
async function full(client: TestClient, { instance }: ScriptedTarget): Promise<void> {
  await client.time.until('the import is FULL', () => {
    return client.target.importState === 'FULL' && client.target.instance === instance;
  });
}

/** The request is sent, and its answer is lost. */
async function unanswered({ target, client }: World, name: string): Promise<void> {
  await client.time.until(`${name} is sent`, () => target.of(name).length > 0);
}

const LOCK = {
  kind: 'posix',
  owner: '00000000000000aa',
  pid: 1,
  exclusive: true,
  start: 0,
  end: undefined,
} as const;

test('after a crash: replays in order, opens, locks, and only then what was not answered', async (t) => {
  const { target, client } = await world(t);
  const committed = await client.create('committed');
  await client.fs.fsync(client.op, committed.fh);
  const dir = await client.mkdir('dir');
  const inDir = await client.create('in dir', O_RDWR, dir);
  await client.setattr(inDir.fid, { mode: 0o600 });
  target.mute.add('CREATE');
  const lost = client.mkdir('answer lost');
  await client.time.until('it is sent', () => target.of('CREATE').length === 4);
  const sent = target.seen.filter(({ name }) => name === 'CREATE' || name === 'SETATTR');
  target.mute.clear();
  target.crash();
  await client.time.until('the client has seen it', () => client.target.importState !== 'FULL');
  const parked = client.mkdir('parked');
  target.seen = [];
  target.start();
  await client.time.within('both', Promise.all([lost, parked]));
  const [, made, file, changed, resent] = sent.map(({ xid }) => xid);
  assert.deepEqual(
    target.seen
      .filter(({ name }) => name !== 'CONNECT' && name !== 'PING')
      .map(({ name, xid, transno, flags }) => [name, flags.join(), ...(transno === 0 ? [] : [xid, transno])]),
    [
      ['CREATE', 'replay,recovery', made, 2],
      ['CREATE', 'replay,recovery', file, 3],
      ['SETATTR', 'replay,recovery', changed, 4],
      ['REPLAYED', 'recovery'],
      ['REPLAY_OPENS', 'recovery'],
      ['REPLAY_LOCKS', 'recovery'],
      ['RECOVERY_DONE', 'recovery'],
      ['ENQUEUE', ''],
      ['CREATE', 'resent'],
      ['CREATE', ''],
    ],
  );
  assert.equal(target.of('CREATE')[2]?.xid, resent);
  const [again] = target.connects.slice(-1);
  assert.deepEqual(
    [again?.previousInstance, again?.lastTransno, again?.hasMoreThanOpens],
    [1, 4 as Transno, true],
  );
});

test('a replay names the time that the operation was executed at first', async (t) => {
  const { target, client } = await world(t);
  target.clock = 4711;
  await client.mkdir('dir');
  target.crash();
  target.clock = 9999;
  target.start();
  await full(client, target);
  const [first, replay] = target.of('CREATE').map(({ body }) => decode(Create.request, body));
  assert.deepEqual(replay, { ...first, time: { sec: 4711, nsec: 0 } });
});

test('what the new instance says is durable is not replayed', async (t) => {
  const { target, client } = await world(t);
  for (const name of ['one', 'two', 'three']) await client.mkdir(name);
  target.crash();
  target.lastCommitted = 2 as Transno;
  target.start();
  await full(client, target);
  const replays = target.of('CREATE').filter(({ flags }) => flags.includes('replay'));
  assert.deepEqual([replays.map(({ transno }) => transno), client.target.replayList.operations], [[3], 1]);
});

test('a replay that the connection breaks in begins again, and so does one in a third instance', async (t) => {
  const { target, client } = await world(t);
  await client.mkdir('one');
  await client.mkdir('two');
  target.crash();
  target.held.add('REPLAYED');
  target.start();
  await unanswered({ target, client }, 'REPLAYED');
  target.breakConnections();
  await client.time.until('it has connected again', () => target.of('REPLAYED').length === 2);
  target.crash();
  target.held.clear();
  target.held.add('RECOVERY_DONE');
  target.start();
  await unanswered({ target, client }, 'RECOVERY_DONE');
  target.breakConnections();
  await client.time.until('once more', () => target.of('RECOVERY_DONE').length === 2);
  target.go();
  await full(client, target);
  const replays = target.of('CREATE').filter(({ flags }) => flags.includes('replay'));
  assert.deepEqual(
    [replays.map(({ transno }) => transno), target.connects.map((connect) => connect.previousInstance)],
    [
      [1, 2, 1, 2, 1, 2, 1, 2],
      [undefined, 1, 1, 1, 1],
    ],
  );
});

test('a crash costs no cache: names, attributes and pages are believed under the locks that were granted again', async (t) => {
  const { target, client } = await world(t);
  const dir = await client.mkdir('dir');
  const file = await client.create('file', O_RDWR, dir);
  await client.write(file, 0, 'cached');
  await client.fs.fsync(client.op, file.fh);
  const locks = client.target.locks;
  target.crash();
  assert.equal(await client.text(file), 'cached', 'also while the server is away');
  target.start();
  await full(client, target);
  target.names();
  assert.deepEqual(
    [
      await client.text(file),
      (await client.lookup('file', dir))?.attr.fid,
      await client.lookup('no such name', dir),
      client.target.locks,
      target.names(),
      client.kernel.told,
    ],
    ['cached', file.fid, undefined, locks, [], []],
  );
});

test('dirty pages live through a crash, and are written under the lock that was granted again', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  await client.write(file, 0, 'dirty');
  target.crash();
  target.start();
  await full(client, target);
  assert.deepEqual([target.of('WRITE').length, client.target.dirtyBytes], [0, 5]);
  await client.fs.fsync(client.op, file.fh);
  assert.deepEqual(
    [target.of('WRITE').map(({ bulk }) => bulk.toString()), client.target.dirtyBytes],
    [['dirty'], 0],
  );
});

test('the bytes of a WRITE stay what they were until they are durable, whatever becomes of the pages', async (t) => {
  const target = new ScriptedTarget();
  const client = await scriptedWorld(t, [target]).client('a', { cacheBytes: 16 << 20 });
  const file = await client.create('file');
  const granule = 1 << 20;
  const marks = Array.from({ length: 40 }, (_, index) => 65 + (index % 26));
  for (const [index, mark] of marks.entries())
    await client.write(file, index * granule, Buffer.alloc(granule, mark));
  await client.time.until('all is written', () => client.target.dirtyBytes === 0);
  target.crash();
  target.seen = [];
  target.start();
  await full(client, target);
  const replayed = target.of('WRITE').map(({ body, bulk, flags }) => {
    const { offset } = decode(Write.request, body);
    // Those that were sent before the client knew the line are parts of a granule.
    const index = Math.floor(offset / granule);
    const same = bulk.equals(Buffer.alloc(bulk.length, marks[index])) && flags.join() === 'replay,recovery';
    return { index, bytes: bulk.length, same };
  });
  const bytesOf = (of: number): number =>
    replayed.reduce((sum, { index, bytes }) => sum + (index === of ? bytes : 0), 0);
  assert.deepEqual(
    marks.map((_mark, index) => bytesOf(index)),
    marks.map(() => granule),
  );
  assert.ok(replayed.every(({ same }) => same));
});

test('no more than a bound is uncommitted: then the target is asked to commit, and writes wait for it', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  target.held.add('SYNC');
  const granule = Buffer.alloc(1 << 20, 'x');
  const writes = (async () => {
    for (let index = 0; index < 100; index += 1) await client.write(file, index << 20, granule);
  })();
  await client.time.until('it asks', () => target.of('SYNC').length === 1);
  await client.time.sleep(50);
  const written = (): number => target.of('WRITE').reduce((sum, { bulk }) => sum + bulk.length, 0) / 2 ** 20;
  const before = written();
  assert.ok(before > 64 && before <= 64 + 8, `${before} MiB`);
  target.go();
  await client.time.within('the rest', writes);
  await client.fs.fsync(client.op, file.fh);
  assert.deepEqual([written(), client.target.replayList], [100, { operations: 0, bulkBytes: 0 }]);
});

test('a lock that is called back while the server is away goes back when it is there, under its new name', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  await client.write(file, 0, 'dirty');
  let letGo = (): void => undefined;
  client.kernel.onDropPages = () => new Promise((resolve) => (letGo = resolve));
  // The active lock was the first, and the third of those that CREATE granted is this.
  target.bast(4 as LockHandle, file.fid, 'data');
  await client.time.until('it is being released', () => client.kernel.told.includes(`pages ${file.fid}`));
  target.crash();
  target.seen = [];
  target.start();
  await full(client, target);
  client.kernel.onDropPages = undefined;
  letGo();
  await client.time.until('it is given back', () => target.of('CANCEL').length > 0);
  const asked = target.of('REPLAY_LOCKS').flatMap(({ body }) => decode(ReplayLocks.request, body).locks);
  const index = asked.findIndex((lock) => lock.type === 'data' && lock.fid === file.fid);
  const handles = target.of('CANCEL').flatMap(({ body }) => decode(Cancel.request, body).handles);
  assert.deepEqual([index >= 0, handles], [true, [2000 + index]]);
});

test('a lock that is refused goes with what it covers; dirty data under it is reported once', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  const other = await client.create('other');
  await client.write(file, 0, 'lost');
  await client.write(other, 0, 'kept');
  target.refuses = ({ fid, type }) => fid === file.fid && type === 'data';
  target.crash();
  target.start();
  await full(client, target);
  assert.deepEqual(
    [
      await errnoOf(() => client.fs.fsync(client.op, file.fh)),
      await errnoOf(() => client.fs.fsync(client.op, file.fh)),
      await errnoOf(() => client.fs.fsync(client.op, other.fh)),
      target.of('WRITE').map(({ bulk }) => bulk.toString()),
      client.kernel.told.includes(`pages ${file.fid}`),
    ],
    ['EIO', 'no error', 'no error', ['kept'], true],
  );
});

test('an application lock that is not granted again: its descriptor answers EIO until it is closed, others do not', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  const other = { fid: file.fid, fh: await client.fs.open(client.op, file.fid, O_RDWR) };
  await client.fs.setLock(client.op, file.fh, LOCK, false);
  target.refusesFlocks = true;
  target.crash();
  target.start();
  await full(client, target);
  assert.deepEqual(
    [
      await errnoOf(() => client.write(file, 0, 'x')),
      await errnoOf(() => client.read(file, 0, 1)),
      await errnoOf(() => client.write(other, 0, 'x')),
      client.target.lostAppLocks,
    ],
    ['EIO', 'EIO', 'no error', 1],
  );
  target.names();
  await client.close(file, LOCK.owner);
  await client.time.until('the close is sent', () => target.of('CLOSE').length === 1);
});

test('an unlock that was not answered is said again: the lock that was replayed does not stay', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  await client.fs.setLock(client.op, file.fh, LOCK, false);
  target.mute.add('UNFLOCK');
  const unlocked = client.fs.unlock(client.op, file.fh, LOCK) as Promise<void>;
  await unanswered({ target, client }, 'UNFLOCK');
  target.crash();
  target.mute.clear();
  target.start();
  await client.time.within('unlock', unlocked);
  assert.deepEqual([target.of('UNFLOCK').length, client.target.appLocks], [2, 0]);
});

test('a server without full recovery gets opens only; what it cannot have is forgotten', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  await client.fs.fsync(client.op, file.fh);
  target.crash();
  target.features = FEATURE.grants;
  target.names();
  target.start();
  await full(client, target);
  assert.deepEqual(target.names().slice(0, 3), ['REPLAY_OPENS', 'RECOVERY_DONE', 'ENQUEUE']);
  assert.deepEqual([client.target.locks, client.kernel.told.includes('names')], [0, true]);
});

test('with a server from before far locks one is EOVERFLOW, an end there is the end of the file, one held is lost', async (t) => {
  const { target, client } = await world(t);
  const [kept, lost] = [await client.create('kept'), await client.create('lost')];
  const far = 2n ** 62n;
  await client.fs.setLock(client.op, kept.fh, { ...LOCK, kind: 'posix', start: 5, end: far }, false);
  await client.fs.setLock(client.op, lost.fh, { ...LOCK, kind: 'posix', start: far, end: far + 1n }, false);
  target.crash();
  target.features = FEATURES_ALL & ~FEATURE.lockOffsets;
  target.start();
  await full(client, target);
  const again = { ...LOCK, kind: 'posix', start: far, end: undefined } as const;
  assert.deepEqual(
    [
      client.target.lostAppLocks,
      await errnoOf(() => client.write(lost, 0, 'x')),
      await errnoOf(() => client.fs.setLock(client.op, kept.fh, again, false)),
      await errnoOf(() => client.fs.unlock(client.op, kept.fh, { ...again, start: 7, end: far })),
    ],
    [1, 'EIO', 'EOVERFLOW', 'no error'],
  );
  const replayed = target.of('ENQUEUE').map(({ body }) => decode(Enqueue.request, body).flock);
  const unlocked = target.of('UNFLOCK').map(({ body }) => decode(Unflock.request, body).flock);
  const ranges = [...replayed, ...unlocked].flatMap((range) =>
    range === undefined ? [] : [[range.start, range.end]],
  );
  assert.deepEqual(ranges, [
    [5, far],
    [far, far + 1n],
    [5, undefined],
    [7, undefined],
  ]);
});

test('an eviction: what only asks is asked again, what changes fails with EIO, and it is told why', async (t) => {
  const { target, client } = await world(t);
  for (const name of ['LOOKUP', 'CREATE', 'GET_FIDS']) target.mute.add(name);
  const looked = client.lookup('name');
  const made = errnoOf(() => client.mkdir('dir'));
  await unanswered({ target, client }, 'LOOKUP');
  await unanswered({ target, client }, 'CREATE');
  target.mute.clear();
  target.evict('the test wants it');
  assert.deepEqual(
    [await client.time.within('lookup', looked), await client.time.within('mkdir', made)],
    [undefined, 'EIO'],
  );
  assert.deepEqual(
    client.target.evictions.map(({ reason }) => reason),
    ['the test wants it'],
  );
  assert.deepEqual(
    target.of('LOOKUP').map(({ flags }) => flags.join()),
    ['', ''],
  );
});

test('an eviction reports data that was answered and may not be durable', async (t) => {
  const { target, client } = await world(t);
  const answered = await client.create('answered');
  const safe = await client.create('safe');
  await client.write(safe, 0, 'safe');
  await client.fs.fsync(client.op, safe.fh);
  await client.write(answered, 0, 'answered');
  await client.fs.flush(client.op, answered.fh, LOCK.owner);
  await client.time.until('it is written', () => client.target.dirtyBytes === 0);
  target.crash();
  target.start();
  target.outcomes.push({ outcome: 'evicted', reason: 'it was forced' });
  await client.time.until('it is in again', () => client.target.evictions.length === 1);
  await full(client, target);
  const closes = [answered, safe].map((file) =>
    errnoOf(() => client.fs.flush(client.op, file.fh, LOCK.owner)),
  );
  assert.deepEqual(await Promise.all(closes), ['EIO', 'no error']);
});

test('a page that a mapping dirtied is not written after an eviction', async (t) => {
  const { target, client } = await world(t);
  const file = await client.create('file');
  await client.write(file, 0, 'x');
  await client.fs.fsync(client.op, file.fh);
  const brought: Promise<string>[] = [];
  client.kernel.onDropPages = async () => {
    const options = { append: false, writeback: true, sync: false, killSuidgid: false };
    brought.push(
      errnoOf(() => client.fs.write(client.op, undefined, file.fid, 0, Buffer.from('M'), options)),
    );
  };
  target.names();
  target.evict('the test wants it');
  await full(client, target);
  await client.time.until('the kernel has brought it', () => brought.length > 0);
  assert.deepEqual(await Promise.all(brought), ['EIO']);
  await client.time.sleep(20);
  assert.deepEqual([target.of('WRITE').length, client.target.dirtyBytes], [0, 0]);
});

test('with a server from before holds, the locks of a removed file go back soon when nobody has it open', async (t) => {
  const { target, client } = await world(t);
  target.crash();
  target.features = FEATURE.grants | FEATURE.replay;
  target.start();
  await full(client, target);
  const dir = await client.mkdir('dir');
  const before = client.target.locks;
  const removed = await client.fs.create(client.op, dir, 'f' as Name, { mode: 0o100644, umask: 0 });
  assert.ok(client.target.locks > before);
  target.removes = removed.attr.fid;
  await client.unlink('f', dir);
  await client.time.until('they are given back', () => client.target.locks === before);
  assert.equal(target.of('CANCEL').length, 1);
});

for (const { name, hides, limitMs } of [
  {
    name: 'an address that swallows packets holds up the other one for 300 ms',
    hides: 'blackHole',
    limitMs: 600,
  },
  {
    name: 'a server that takes connections and says nothing holds up the other one for a second',
    hides: 'silent',
    limitMs: 1400,
  },
] as const) {
  test(`failover: ${name}`, async (t) => {
    const targets = [new ScriptedTarget(), new ScriptedTarget()] as const;
    const [first, second] = targets;
    const client = await scriptedWorld(t, targets).client('a');
    await client.mkdir('dir');
    first.crash();
    first.listening = true;
    first[hides] = true;
    second.instance = 2;
    const started = client.time.clock.nowMs();
    await full(client, second);
    const tookMs = client.time.clock.nowMs() - started;
    assert.ok(tookMs < limitMs, `${tookMs} ms`);
    assert.equal(second.of('CREATE').length, 1);
  });
}

test('failover: a server that falls silent is given up within 5 s, and its partner is asked first', async (t) => {
  const targets = [new ScriptedTarget(), new ScriptedTarget()] as const;
  const [first, second] = targets;
  const client = await scriptedWorld(t, targets).client('a');
  const file = await client.create('file');
  await client.write(file, 0, 'x');
  first.silent = true;
  second.instance = 2;
  const started = client.time.clock.nowMs();
  await client.time.within('fsync', client.fs.fsync(client.op, file.fh) as Promise<void>);
  const tookMs = client.time.clock.nowMs() - started;
  assert.ok(tookMs > 3000 && tookMs < 5500, `${tookMs} ms`);
  assert.deepEqual([first.connects.length, second.connects.length], [1, 1]);
});
