/** flock(2), fcntl(2) and OFD locks, within one mount and across two. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { type Agent, AgentGone, LOCK, type LockRange, O } from '../fixtures/agent.js';
import { startCluster } from '../fixtures/cluster.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';
import { within } from '../fixtures/until.js';

const shared = sharedCluster({ mounts: 2 });
const BUSY = { code: 'EAGAIN' };

interface Pair {
  readonly one: Agent;
  readonly two: Agent;
}

/** The same test between processes of one mount, and of two. */
function bothWays(
  name: string,
  body: (pair: Pair, more: (mountIndex?: number) => Agent) => Promise<void>,
): void {
  test(`${name} (one mount)`, async (t) => {
    const { a, more } = await shared.place(t);
    await body({ one: a, two: more(0) }, more);
  });
  test(`${name} (two mounts)`, async (t) => {
    const { a, b, more } = await shared.place(t);
    await body({ one: a, two: b }, more);
  });
}

async function openBoth({ one, two }: Pair, flags: number = O.RDWR): Promise<[number, number]> {
  await one.writeFile('f', '.'.repeat(100));
  return [await one.open('f', flags), await two.open('f', flags)];
}

bothWays(
  'flock: exclusive excludes all, shared excludes exclusive, and an unlock lets the next in',
  async (pair) => {
    const { one, two } = pair;
    const [f1, f2] = await openBoth(pair, O.RDONLY);
    await one.flock(f1, LOCK.EX);
    await assert.rejects(two.flock(f2, LOCK.SH | LOCK.NB), BUSY);
    await one.flock(f1, LOCK.SH);
    await two.flock(f2, LOCK.SH | LOCK.NB);
    await assert.rejects(two.flock(f2, LOCK.EX | LOCK.NB), BUSY);
    await one.flock(f1, LOCK.UN);
    await two.flock(f2, LOCK.EX | LOCK.NB);
  },
);

bothWays('flock: a lock belongs to the open file description and ends with its last close', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  const copy = await one.call<number>('dup', { fd: f1 });
  await one.flock(f1, LOCK.EX);
  await one.close(f1);
  await assert.rejects(two.flock(f2, LOCK.EX | LOCK.NB), BUSY);
  await one.close(copy);
  // Not at once: the kernel tells of a last close when close(2) has returned (docs/SEMANTICS.md).
  await two.flock(f2, LOCK.EX);
});

bothWays('flock: a waiting lock is granted when the holder gives way', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.flock(f1, LOCK.EX);
  const waits = two.flock(f2, LOCK.EX);
  await two.blocked();
  await one.flock(f1, LOCK.UN);
  await waits;
  await assert.rejects(one.flock(f1, LOCK.SH | LOCK.NB), BUSY);
});

bothWays('flock: a lock ends with its process', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.flock(f1, LOCK.EX);
  const waits = two.flock(f2, LOCK.EX);
  await two.blocked();
  await one.dies('SIGKILL');
  await waits;
});

bothWays('fcntl: ranges exclude each other where they overlap, and readers share', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  const set = (
    agent: Agent,
    fd: number,
    type: 'read' | 'write',
    start: number,
    length: number,
  ): Promise<void> => agent.lock(fd, { type, how: 'set', start, length });
  await set(one, f1, 'write', 0, 10);
  await set(one, f1, 'read', 10, 10);
  await assert.rejects(set(two, f2, 'write', 9, 1), BUSY);
  await assert.rejects(set(two, f2, 'read', 0, 1), BUSY);
  await assert.rejects(set(two, f2, 'write', 19, 1), BUSY);
  await set(two, f2, 'read', 15, 100);
  await set(two, f2, 'write', 20, 0);
  await assert.rejects(set(one, f1, 'read', 1_000_000, 1), BUSY);
});

bothWays('fcntl: F_GETLK names who is in the way, with range and process', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.lock(f1, { type: 'write', how: 'set', start: 10, length: 10 });
  const conflict = await two.testLock(f2, { type: 'read', start: 0, length: 0 });
  const none = await two.testLock(f2, { type: 'read', start: 20, length: 5 });
  assert.deepEqual([conflict, none.type], [{ type: 'write', start: 10, length: 10, pid: one.pid }, 'unlock']);
});

bothWays('fcntl: unlocking the middle of a range leaves both ends locked', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.lock(f1, { type: 'write', how: 'set', start: 0, length: 30 });
  await one.lock(f1, { type: 'unlock', how: 'set', start: 10, length: 10 });
  await two.lock(f2, { type: 'write', how: 'set', start: 10, length: 10 });
  await assert.rejects(two.lock(f2, { type: 'write', how: 'set', start: 9, length: 1 }), BUSY);
  await assert.rejects(two.lock(f2, { type: 'write', how: 'set', start: 20, length: 1 }), BUSY);
});

bothWays('fcntl: ranges up to the last byte there is are exact to the byte', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  const [near, far, last] = [2n ** 53n, 2n ** 62n, 2n ** 63n - 1n];
  // Linux's own limit: a range ends at 2^63 - 1 at most, and what ends there goes to the end of the file.
  for (const range of [
    [far, far + 10n],
    [near - 1n, near + 1n],
    [last - 1n],
    [last - 10n, last - 5n],
  ] as const) {
    const [start, end] = range;
    await one.lockRange(f1, 'write', range);
    assert.deepEqual(await two.testRange(f2, [0n]), ['write', ...range]);
    await assert.rejects(two.lockRange(f2, 'read', [start, start + 1n]), BUSY);
    await two.lockRange(f2, 'write', [start - 1n, start]);
    if (end !== undefined) {
      await assert.rejects(two.lockRange(f2, 'write', [end - 1n, end]), BUSY);
      await two.lockRange(f2, 'write', [end, end + 1n]);
    }
    await two.lockRange(f2, 'unlock', [0n]);
    await one.lockRange(f1, 'unlock', range);
    assert.equal((await two.testRange(f2, [0n]))[0], 'unlock');
  }
});

bothWays(
  'fcntl: ranges far behind 2^53 split, join and convert, and a wait for one is granted',
  async (pair) => {
    const { one, two } = pair;
    const [f1, f2] = await openBoth(pair);
    const base = 2n ** 62n;
    const at = (start: bigint, end: bigint): readonly [bigint, bigint] => [base + start, base + end];
    await one.lockRange(f1, 'write', [2n ** 53n - 1n]);
    await one.lockRange(f1, 'unlock', at(10n, 20n));
    await one.lockRange(f1, 'read', at(12n, 14n));
    await one.lockRange(f1, 'write', at(20n, 30n));
    const layout = [
      await two.testRange(f2, [0n]),
      await two.testRange(f2, at(10n, 20n)),
      await two.testRange(f2, [base + 14n]),
    ];
    assert.deepEqual(layout, [
      ['write', 2n ** 53n - 1n, base + 10n],
      ['read', ...at(12n, 14n)],
      ['write', base + 20n],
    ]);
    await two.lockRange(f2, 'read', at(11n, 20n));
    const waits = two.lockRange(f2, 'write', at(19n, 21n), 'wait');
    await two.blocked();
    await one.lockRange(f1, 'unlock', at(20n, 21n));
    await waits;
    assert.deepEqual(await one.testRange(f1, [0n]), ['read', ...at(11n, 19n)]);
  },
);

bothWays('fcntl: any close of the file by the process drops its locks', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.lock(f1, { type: 'write', how: 'set' });
  await one.close(await one.open('f', O.RDONLY));
  await two.lock(f2, { type: 'write', how: 'set' });
});

bothWays('fcntl: a waiting lock is granted in turn, also when the holder dies', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.lock(f1, { type: 'write', how: 'set', start: 5, length: 5 });
  const waits = two.lock(f2, { type: 'write', how: 'wait', start: 0, length: 100 });
  await two.blocked();
  await one.dies('SIGKILL');
  await waits;
});

bothWays('fcntl: two processes that would wait for each other get EDEADLK', async (pair, more) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.lock(f1, { type: 'write', how: 'set', start: 0, length: 1 });
  await two.lock(f2, { type: 'write', how: 'set', start: 1, length: 1 });
  const waits = one.lock(f1, { type: 'write', how: 'wait', start: 1, length: 1 });
  await one.isInLine(more(0), 'f');
  await assert.rejects(two.lock(f2, { type: 'write', how: 'wait', start: 0, length: 1 }), {
    code: 'EDEADLK',
  });
  await two.lock(f2, { type: 'unlock', how: 'set', start: 1, length: 1 });
  await waits;
});

test('flock on a directory or a FIFO excludes on its own machine, and not across two', async (t) => {
  const { a, b, more } = await shared.place(t);
  await a.mkdir('d');
  await a.call('mknod', { path: 'fifo', mode: 0o010666 });
  for (const [name, flags] of [
    ['d', O.RDONLY | O.DIRECTORY],
    ['fifo', O.RDWR],
  ] as const) {
    const [first, second] = [a, more(0)];
    await first.flock(await first.open(name, flags), LOCK.EX | LOCK.NB);
    await assert.rejects(second.flock(await second.open(name, flags), LOCK.EX | LOCK.NB), BUSY);
    // On a local filesystem "another machine" is the same one.
    const across = b.flock(await b.open(name, flags), LOCK.EX | LOCK.NB);
    if (shared.isReference) await assert.rejects(across, BUSY);
    else await across;
  }
});

test('fcntl: a cycle of waits of two processes, each on two mounts of this host, ends with EDEADLK', async (t) => {
  const { a: one, b: two, more, path } = await shared.place(t);
  for (const name of ['f', 'g']) await one.writeFile(name, 'x');
  // Both processes use both mounts: the one's root is the first mount, the other's the second.
  const onOther = (name: string, mountIndex: number): string => path(name, mountIndex);
  const [f1, g2] = [await one.open('f', O.RDWR), await one.open(onOther('g', 1), O.RDWR)];
  const [g1, f2] = [await two.open('g', O.RDWR), await two.open(onOther('f', 0), O.RDWR)];
  await one.lock(f1, { type: 'write', how: 'set' });
  await two.lock(g1, { type: 'write', how: 'set' });
  const waits = one.lock(g2, { type: 'write', how: 'wait' });
  await one.isInLine(more(1), 'g');
  await assert.rejects(within('it is refused', two.lock(f2, { type: 'write', how: 'wait' })), {
    code: 'EDEADLK',
  });
  await two.lock(g1, { type: 'unlock', how: 'set' });
  await waits;
});

bothWays('a process that waits for a lock is ended by a signal, and its wait with it', async (pair, more) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  for (const signal of ['SIGINT', 'SIGKILL'] as const) {
    await one.lock(f1, { type: 'write', how: 'set' });
    const waiter = more(two.root === one.root ? 0 : 1);
    const fd = await waiter.open('f', O.RDWR);
    const waits = waiter.lock(fd, { type: 'write', how: 'wait' });
    await waiter.blocked();
    const { ms } = await waiter.dies(signal);
    await assert.rejects(waits, AgentGone);
    assert.ok(ms < 1000, `${signal} took ${ms} ms`);
    await one.lock(f1, { type: 'unlock', how: 'set' });
    // Were the dead waiter's lock granted, nobody would ever get it back.
    await two.lock(f2, { type: 'write', how: 'set' });
    await two.lock(f2, { type: 'unlock', how: 'set' });
  }
});

bothWays(
  'OFD locks: two descriptions of one process exclude each other, and end with the last close',
  async (pair) => {
    const { one, two } = pair;
    const [f1, f2] = await openBoth(pair);
    const again = await one.open('f', O.RDWR);
    await one.lock(f1, { type: 'write', how: 'set', kind: 'ofd', start: 0, length: 10 });
    await assert.rejects(
      one.lock(again, { type: 'write', how: 'set', kind: 'ofd', start: 5, length: 1 }),
      BUSY,
    );
    await assert.rejects(two.lock(f2, { type: 'write', how: 'set', kind: 'ofd', start: 5, length: 1 }), BUSY);
    await assert.rejects(two.lock(f2, { type: 'write', how: 'set', start: 5, length: 1 }), BUSY);
    await one.close(again);
    await assert.rejects(two.lock(f2, { type: 'write', how: 'set', start: 5, length: 1 }), BUSY);
    await one.close(f1);
    // Not at once, as with flock.
    await two.lock(f2, { type: 'write', how: 'wait', start: 5, length: 1 });
  },
);

bothWays('flock and fcntl locks do not see each other', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.flock(f1, LOCK.EX);
  await two.lock(f2, { type: 'write', how: 'set' });
});

bothWays('what one wrote under a lock, the next holder reads', async (pair) => {
  const { one, two } = pair;
  const [f1, f2] = await openBoth(pair);
  await one.pwrite(f1, 0, '0'.padStart(10));
  const increment = async (agent: Agent, fd: number): Promise<void> => {
    await agent.lock(fd, { type: 'write', how: 'wait' });
    const value = Number(await agent.pread(fd, 0, 10));
    await agent.pwrite(fd, 0, String(value + 1).padStart(10));
    await agent.lock(fd, { type: 'unlock', how: 'set' });
  };
  const many = async (agent: Agent, fd: number): Promise<void> => {
    for (let round = 0; round < 25; round++) await increment(agent, fd);
  };
  await Promise.all([many(one, f1), many(two, f2)]);
  assert.equal(Number(await one.pread(f1, 0, 10)), 50);
});

test('ranges on both sides of 2^53 and at the last byte live through an upgrade and a crash', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [holder, other] = [cluster.agent(0), cluster.agent(1)];
  const fd = await holder.open('f', O.CREAT | O.RDWR);
  const probe = await other.open('f', O.RDWR);
  const held: readonly LockRange[] = [
    [2n ** 53n - 1n, 2n ** 53n + 1n],
    [2n ** 62n, 2n ** 62n + 10n],
    [2n ** 63n - 2n],
  ];
  for (const range of held) await holder.lockRange(fd, 'write', range);
  const waits = other.lockRange(probe, 'write', [2n ** 62n + 9n, 2n ** 62n + 11n], 'wait');
  await other.blocked();
  const third = cluster.agent(1);
  const asks = await third.open('f', O.RDWR);
  for (const restart of [() => cluster.upgrade(), () => cluster.crash()]) {
    await restart();
    for (const range of held) assert.deepEqual(await third.testRange(asks, [range[0]]), ['write', ...range]);
    await third.lockRange(asks, 'write', [2n ** 62n - 1n, 2n ** 62n]);
    await third.lockRange(asks, 'unlock', [0n]);
  }
  await holder.lockRange(fd, 'unlock', [2n ** 62n + 9n, 2n ** 62n + 10n]);
  await within('the waiting lock is granted', waits);
  const [target] = (await cluster.mountStatus()).targets;
  assert.equal(target?.lostAppLocks, 0);
});

test('thousands of ranges of one file live through an upgrade and a crash, one by one', async (t) => {
  const COUNT = 9900;
  const cluster = await startCluster(t, { mounts: 2 });
  const [holder, other] = [cluster.agent(0), cluster.agent(1)];
  const fd = await holder.open('f', O.CREAT | O.RDWR);
  const began = performance.now();
  await holder.call('lock_many', { fd, count: COUNT });
  const perSecond = (COUNT / (performance.now() - began)) * 1000;
  const probe = await other.open('f', O.RDWR);
  const waits: number[] = [];
  for (const restart of [() => cluster.upgrade(), () => cluster.crash()]) {
    await restart();
    const before = performance.now();
    await other.pwrite(probe, 0, 'x');
    waits.push(performance.now() - before);
    for (const at of [0, 1, COUNT / 2, COUNT - 1]) {
      const held = await other.testLock(probe, { type: 'write', start: 2 * at, length: 2 });
      assert.deepEqual([held.type, held.start, held.length], ['write', 2 * at, 1]);
      await other.lock(probe, { type: 'write', how: 'set', start: 2 * at + 1, length: 1 });
    }
  }
  const [target] = (await cluster.mountStatus()).targets;
  assert.deepEqual([target?.appLocks, target?.lostAppLocks], [COUNT, 0]);
  const [upgrade, crash] = waits.map((ms) => ms.toFixed(0));
  t.diagnostic(
    `${perSecond.toFixed(0)} ranges a second; after the start ${upgrade} ms (upgrade), ${crash} ms (crash)`,
  );
});
