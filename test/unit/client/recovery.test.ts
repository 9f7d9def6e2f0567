/** Controlled shutdown, broken connections and eviction, seen from the client: what applications notice of them. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ROOT_FID } from '../../../src/base/ids.js';
import {
  clientWorld,
  errnoOf,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  type TestClient,
} from '../../worlds/client_world.js';

const EXCLUSIVE = {
  kind: 'posix',
  owner: '00000000000000aa',
  pid: 1,
  exclusive: true,
  start: 0,
  end: undefined,
} as const;

function settledLater(promise: unknown): { done: boolean } {
  const state = { done: false };
  const mark = (): void => {
    state.done = true;
  };
  Promise.resolve(promise).then(mark, mark);
  return state;
}

async function full(client: TestClient): Promise<void> {
  await client.time.until('the import is FULL', () => client.target.importState === 'FULL');
}

test('an upgrade keeps open files, unlinked ones too, with what was dirty; calls park and go on', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const kept = await a.create('kept');
  const gone = await a.create('gone');
  const dir = await a.mkdir('dir');
  const dirFh = await a.fs.open(a.op, dir, 0);
  await a.write(kept, 0, 'dirty before');
  await a.write(gone, 0, 'unlinked');
  await a.unlink('gone');
  const parked: Promise<unknown>[] = [];
  await world.upgrade('2.0.0', async () => {
    parked.push(a.mkdir('while away'), a.text(kept), a.write(gone, 8, ', and after'));
    await world.time.turn();
    assert.deepEqual([a.target.gate, a.target.parked], ['CLOSED', 3]);
  });
  const results = await Promise.all(parked);
  assert.equal(results[1], 'dirty before');
  assert.deepEqual(
    [await a.text(kept), await a.text(gone), await a.names(), a.target.serverVersion],
    ['dirty before', 'unlinked, and after', ['dir', 'kept', 'while away'], '2.0.0'],
  );
  assert.deepEqual((await a.fs.readdir(a.op, dirFh, 0, 10, false)).entries, []);
});

test('parked calls run in the order in which they came', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const order: number[] = [];
  const calls: Promise<unknown>[] = [];
  await world.upgrade('2.0.0', async () => {
    for (let i = 0; i < 20; i += 1) {
      calls.push(
        a.fs.setxattr(a.op, ROOT_FID, 'user.last', Buffer.from(String(i)), 0, false) as Promise<void>,
      );
      calls.at(-1)?.then(() => order.push(i));
    }
  });
  await Promise.all(calls);
  assert.deepEqual(
    [order, Buffer.from(await a.fs.getxattr(a.op, ROOT_FID, 'user.last')).toString()],
    [Array.from({ length: 20 }, (_, i) => i), '19'],
  );
});

test('a parked call ends at once with EINTR; the others stay', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  await world.upgrade('2.0.0', async () => {
    const { op, interrupt } = a.interruptible();
    const interrupted = errnoOf(() => a.fs.lookup(op, ROOT_FID, 'x' as never));
    const stays = settledLater(a.lookup('y'));
    await world.time.turn();
    interrupt();
    assert.equal(await interrupted, 'EINTR');
    assert.deepEqual([stays.done, a.target.parked], [false, 1]);
  });
  await full(a);
});

test('application locks stay exclusive over an upgrade, and a waiting one is granted after it', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f');
  const fb = await b.open('f', O_RDWR);
  await a.fs.setLock(a.op, fa.fh, EXCLUSIVE, false);
  const waits = b.fs.setLock(b.op, fb.fh, EXCLUSIVE, true) as Promise<void>;
  await world.time.until('b waits', () => b.target.appLocks === 1);
  const state = settledLater(waits);
  await world.upgrade('2.0.0');
  await Promise.all([full(a), full(b)]);
  const second = { ...EXCLUSIVE, owner: '00000000000000bb' };
  assert.deepEqual(
    [await errnoOf(() => b.fs.setLock(b.op, fb.fh, second, false)), state.done],
    ['EAGAIN', false],
  );
  await a.fs.unlock(a.op, fa.fh, EXCLUSIVE);
  await world.time.within('the waiting lock is granted', waits);
});

test('close and unlock in a closed gate do not wait, and are not replayed', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f');
  const gone = await a.create('gone');
  await a.unlink('gone');
  await a.fs.setLock(a.op, fa.fh, EXCLUSIVE, false);
  await world.upgrade('2.0.0', async () => {
    await world.time.within('close', Promise.all([a.close(fa, EXCLUSIVE.owner), a.close(gone)]), 1000);
  });
  await Promise.all([full(a), full(b)]);
  const fb = await b.open('f', O_RDWR);
  await b.fs.setLock(b.op, fb.fh, EXCLUSIVE, false);
  assert.deepEqual([a.target.opens, a.target.appLocks], [0, 0]);
  await world.time.until('the removed file is destroyed', () => world.server?.status().orphans === 0);
});

test('statfs and the attributes of the root answer from what was last known while the server is away', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const before = await a.fs.statfs(a.op);
  await a.fs.getattr(a.op, ROOT_FID);
  await world.upgrade('2.0.0', async () => {
    assert.deepEqual([a.fs.statfs(a.op), a.fs.lastKnownAttr(ROOT_FID)?.fid], [before, ROOT_FID]);
  });
});

test('the drain drops kernel caches before it gives locks back, flushes, and holds nothing in the end', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  await a.write(f, 0, 'x'.repeat(3_000_000));
  await a.lookup('f');
  a.kernel.told.length = 0;
  let dirtyWhenDropped = -1;
  a.kernel.onDropPages = async () => {
    dirtyWhenDropped = a.target.dirtyBytes;
    // The kernel brings back what was dirtied through a mapping, while the gate drains.
    const options = { append: false, writeback: true, sync: false, killSuidgid: false };
    await a.fs.write(a.op, f.fh, f.fid, 0, Buffer.from('MMAP'), options);
  };
  await world.server?.shutdown();
  a.kernel.onDropPages = undefined;
  assert.deepEqual(
    [dirtyWhenDropped, a.target.gate, a.target.locks, a.target.dirtyBytes],
    [0, 'CLOSED', 0, 0],
  );
  assert.ok(
    ['names', `pages ${f.fid}`].every((what) => a.kernel.told.includes(what)),
    a.kernel.told.join(),
  );
  assert.deepEqual(a.fs.status().cache.pageBytes, 0);
  await world.start({ softwareVersion: '2.0.0' });
  assert.equal((await a.read(f, 0, 8)).toString(), 'MMAPxxxx');
});

test('what nobody uses is given back ahead of a drain: operations go on meanwhile, up to a limit', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const [f, g] = [await a.create('f'), await a.create('g')];
  await a.write(f, 0, 'dirty');
  await a.write(g, 0, 'more');
  let letGo = (): void => undefined;
  const held = new Promise<void>((resolve) => (letGo = resolve));
  let dirtyWhenDropped = -1;
  a.kernel.onDropPages = () => {
    dirtyWhenDropped = a.target.dirtyBytes;
    return held;
  };
  const shutdown = world.server?.shutdown();
  await world.time.until('the caches are being emptied', () => dirtyWhenDropped >= 0);
  assert.deepEqual([dirtyWhenDropped, a.target.gate], [0, 'OPEN']);
  await a.mkdir('meanwhile');
  // The kernel does not let go.
  await world.time.until('operations wait', () => a.target.gate === 'DRAINING');
  const parked = a.mkdir('parked');
  await world.time.until('it parks', () => a.target.parked === 1);
  a.kernel.onDropPages = undefined;
  letGo();
  await shutdown;
  await world.start({ softwareVersion: '2.0.0' });
  await parked;
  assert.deepEqual([await a.text(f), await a.text(g)], ['dirty', 'more']);
  assert.ok((await a.lookup('meanwhile')) !== undefined && (await a.lookup('parked')) !== undefined);
});

test('a shutdown that is cancelled opens the gate again; closes made meanwhile reach the server', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const f = await a.create('f');
  // b does not drain: its kernel does not let go.
  const g = await b.create('g');
  await b.write(g, 0, 'x');
  let letGo = (): void => undefined;
  b.kernel.onDropPages = () => new Promise((resolve) => (letGo = resolve));
  const shutdown = world.server?.shutdown();
  await world.time.until('a is drained', () => a.target.gate === 'CLOSED');
  const parked = a.mkdir('d');
  await a.close(f);
  assert.equal(world.server?.cancelShutdown(), true);
  b.kernel.onDropPages = undefined;
  letGo();
  await parked;
  assert.equal(await shutdown, 'cancelled');
  await world.time.until(
    'both clients are in again',
    () => a.target.gate === 'OPEN' && b.target.gate === 'OPEN',
  );
  assert.equal(await b.text(g), 'x');
  await world.time.until('the close arrived', () => {
    return world.server?.status().clients.find((client) => client.name === 'a')?.opens === 0;
  });
});

test('a broken connection is resumed with all locks and caches; calls under way are sent again', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  await a.write(f, 0, 'cached');
  const locks = a.target.locks;
  const calls = Promise.all([a.mkdir('d1'), a.mkdir('d2'), a.fs.fsync(a.op, f.fh)]);
  a.breakConnection();
  await calls;
  await full(a);
  assert.ok(a.target.locks >= locks, `${a.target.locks} of ${locks} locks`);
  assert.ok(!(a.fs.getattr(a.op, f.fid) instanceof Promise), 'attributes are still believed');
  assert.deepEqual([await a.text(f), await a.names()], ['cached', ['d1', 'd2', 'f']]);
});

test('a connection that breaks in every phase of an upgrade does not lose anything', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  let text = '';
  for (let round = 2; round < 22; round += 1) {
    const piece = `round ${round};`;
    await a.write(f, text.length, piece);
    text += piece;
    const shutdown = world.server?.shutdown();
    await world.time.sleep(round * 0.05);
    a.breakConnection();
    await shutdown;
    const started = world.start({ softwareVersion: `${round}.0.0` });
    await world.time.sleep(round * 0.05);
    a.breakConnection();
    await started;
    assert.equal(await world.time.within('read', a.text(f)), text);
  }
});

test('a connection that breaks in the middle of recovery leaves no lock behind that nobody waits for or holds', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  let breakAt: { readonly state: string; readonly turns: number } | undefined;
  const b = await world.client('b', {
    onState: (text) => {
      if (breakAt === undefined || !text.endsWith(breakAt.state)) return;
      const { turns } = breakAt;
      breakAt = undefined;
      void broken(turns);
    },
  });
  const broken = async (turns: number): Promise<void> => {
    for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
    b.breakConnection();
  };
  const [fa, ga] = [await a.create('f'), await a.create('g')];
  for (let round = 0; round < 80; round += 1) {
    const [fb, gb] = [await b.open('f', O_RDWR), await b.open('g', O_RDWR)];
    await a.fs.setLock(a.op, fa.fh, EXCLUSIVE, false);
    await b.fs.setLock(b.op, gb.fh, EXCLUSIVE, false);
    const waits = b.fs.setLock(b.op, fb.fh, EXCLUSIVE, true) as Promise<void>;
    const { op, interrupt } = b.interruptible();
    const other = { ...EXCLUSIVE, owner: '00000000000000cc' };
    const gives = b.fs.setLock(op, fb.fh, other, true) as Promise<void>;
    const gaveUp = assert.rejects(gives, { code: 'EINTR' });
    await world.time.until('b waits', () => b.target.appLocks === 3);
    const state =
      (['REPLAY_OPENS', 'REPLAY_LOCKS', 'WAIT_RECOVERED', 'ACTIVE_LOCK'] as const)[round % 4] ?? '';
    breakAt = { state, turns: Math.floor(round / 4) };
    await world.upgrade(`2.0.${round}`);
    await world.time.until('the connection broke', () => breakAt === undefined);
    interrupt();
    await b.close(gb, EXCLUSIVE.owner);
    await Promise.all([full(a), full(b), gaveUp]);
    await a.fs.unlock(a.op, fa.fh, EXCLUSIVE);
    await world.time.within('the waiting lock is granted', waits);
    assert.equal(await errnoOf(() => a.fs.setLock(a.op, fa.fh, EXCLUSIVE, false)), 'EAGAIN');
    await b.close(fb, EXCLUSIVE.owner);
    // What waited twice would be granted now, to nobody.
    for (const [file, name] of [
      [fa, 'f'],
      [ga, 'g'],
    ] as const) {
      assert.equal(
        await errnoOf(() => a.fs.setLock(a.op, file.fh, EXCLUSIVE, false)),
        'no error',
        `${name}, round ${round}`,
      );
      await a.fs.unlock(a.op, file.fh, EXCLUSIVE);
    }
    const opens = (): number =>
      world.server?.status().clients.reduce((sum, client) => sum + client.opens, 0) ?? 0;
    await world.time.until('closes reach the server', () => opens() === 2);
  }
});

test('an evicted client: old handles fail with EIO, lost data is told once, new operations work', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const dirty = await a.create('dirty');
  await a.write(dirty, 0, 'never stored');
  const clean = await a.create('clean');
  await a.write(clean, 0, 'stored');
  await a.fs.fsync(a.op, clean.fh);
  await a.fs.setLock(a.op, clean.fh, EXCLUSIVE, false);
  await a.write(dirty, 0, 'Never');
  world.server?.evict('a', 'the test wants it');
  await world.time.until('a is back', () => a.target.importState === 'FULL' && a.target.opens === 0);
  assert.deepEqual(
    [
      await errnoOf(() => a.read(clean, 0, 10)),
      await errnoOf(() => a.write(dirty, 0, 'x')),
      await errnoOf(() => a.fs.fsync(a.op, clean.fh)),
      await errnoOf(() => a.fs.flush(a.op, dirty.fh, EXCLUSIVE.owner)),
      await errnoOf(() => a.fs.flush(a.op, dirty.fh, EXCLUSIVE.owner)),
      await errnoOf(() => a.fs.flush(a.op, clean.fh, EXCLUSIVE.owner)),
    ],
    ['EIO', 'EIO', 'EIO', 'EIO', 'no error', 'no error'],
  );
  a.fs.release(dirty.fh, undefined);
  a.fs.release(clean.fh, undefined);
  const again = await a.open('clean', O_RDWR);
  assert.equal(await a.text(again), 'stored');
  await a.write(again, 0, 'S');
  await a.close(again);
  assert.equal(a.target.appLocks, 0);
});

test('a start that was forced evicts; the same processes go on with new handles', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  await a.fs.fsync(a.op, f.fh);
  await world.servers.crash();
  const parked = a.lookup('not cached');
  await world.start({ softwareVersion: '2.0.0', forceStart: true });
  await world.time.within('lookup', parked);
  const found = await a.lookup('f');
  assert.deepEqual([found?.attr.fid, await errnoOf(() => a.read(f, 0, 1))], [f.fid, 'EIO']);
  assert.match(a.target.evictions[0]?.reason ?? '', /forced the start of version 2.0.0/);
});

test('a client that mounts during a shutdown waits, and gets in after it', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  let letGo = (): void => undefined;
  const f = await a.create('f', O_WRONLY);
  a.kernel.onDropPages = () => new Promise((resolve) => (letGo = resolve));
  const shutdown = world.server?.shutdown();
  const late = world.client('late', { connectTimeoutMs: 500 });
  const state = settledLater(late);
  await world.time.sleep(700);
  assert.equal(state.done, false);
  a.kernel.onDropPages = undefined;
  letGo();
  await shutdown;
  await world.start({ softwareVersion: '2.0.0' });
  const client = await late;
  assert.equal((await client.lookup('f'))?.attr.fid, f.fid);
});

test('without a server the mount gives up in time, and says what it tried', async (t) => {
  const world = await clientWorld(t);
  await world.server?.stop();
  const started = world.time.clock.nowMs();
  await assert.rejects(world.client('a', { connectTimeoutMs: 100 }), /memory:1/);
  assert.ok(world.time.clock.nowMs() - started < 1000);
  await world.start();
});

test('reads and writes go on over ten upgrades without an error', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const f = await a.create('log', O_WRONLY);
  const g = await b.open('log', O_RDONLY);
  let stop = false;
  let written = 0;
  const appender = (async () => {
    while (!stop) {
      await a.write(f, 0, `${String(written).padStart(7, '0')}\n`, true);
      written += 1;
      if (written % 16 === 0) await world.time.sleep(0.5);
    }
  })();
  const reader = (async () => {
    while (!stop) {
      const text = (await b.read(g, 0, 1 << 20)).toString();
      assert.equal(text.length % 8, 0);
      await world.time.turn();
    }
  })();
  for (let round = 0; round < 10; round += 1) {
    await world.upgrade(`2.${round}.0`);
    await Promise.all([full(a), full(b)]);
    await world.time.sleep(20);
  }
  stop = true;
  await world.time.within('both end', Promise.all([appender, reader]));
  const size = await b.size(g.fid);
  assert.equal(size, written * 8);
});

test('a client that wants a lowest version takes no older server', async (t) => {
  const world = await clientWorld(t);
  const wants = { softwareVersion: '2.0.0', lowestPeer: '1.5.0' };
  await assert.rejects(world.client('choosy', wants), {
    message: /client 2\.0\.0 takes no server below 1\.5\.0, and this one is 1\.0\.0; upgrade the server/,
  });
  await world.upgrade('1.5.0');
  const taken = await world.client('again', wants);
  assert.equal(taken.target.importState, 'FULL');
});
