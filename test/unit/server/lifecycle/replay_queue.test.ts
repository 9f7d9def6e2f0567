import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { ClientUuid, Transno, Xid } from '../../../../src/base/ids.js';
import { DurableAnswers, SLOTS_MAX } from '../../../../src/server/export/durable_answers.js';
import { ReclaimedLocks } from '../../../../src/server/export/reclaimed_locks.js';
import { ReplayQueue } from '../../../../src/server/lifecycle/replay_queue.js';

const LAST = 100;

/** A queue whose replays end when the test says so. */
class World {
  readonly executed: number[] = [];
  readonly running: (() => void)[] = [];
  readonly planned: (() => void)[] = [];
  idle = 0;
  readonly queue: ReplayQueue;

  constructor(clients: readonly string[]) {
    this.queue = new ReplayQueue(clients as ClientUuid[], {
      timers: { soon: (fn) => this.planned.push(fn) },
      lastExecuted: LAST as Transno,
      executed: () => undefined,
      idle: () => {
        this.idle += 1;
      },
    });
  }

  add(client: string, transno: number): boolean {
    return this.queue.add({
      client: client as ClientUuid,
      transno: transno as Transno,
      run: (done) => {
        assert.equal(this.running.length, 0, 'one at a time');
        this.executed.push(transno);
        this.running.push(done);
      },
    });
  }

  /** Ends what is executed, until nothing is. */
  run(): void {
    for (let next = this.running.pop() ?? this.planned.pop(); next !== undefined; ) {
      next();
      next = this.running.pop() ?? this.planned.pop();
    }
  }
}

const [A, B, C] = ['a', 'b', 'c'] as const;

test('the successor of the last one is executed at once; others wait for those that may come with lower ones', () => {
  const world = new World([A, B]);
  world.add(A, 101);
  world.run();
  world.add(A, 103);
  world.run();
  assert.deepEqual(world.executed, [101]);
  world.add(B, 104);
  world.run();
  // b has nothing below 104, and its own waits for nobody but a.
  assert.deepEqual(world.executed, [101, 103, 104]);
  world.add(B, 110);
  world.run();
  assert.equal(world.executed.length, 3);
  let drained = 0;
  world.queue.complete(B as ClientUuid, () => {
    drained += 1;
  });
  assert.equal(drained, 0);
  world.queue.complete(A as ClientUuid);
  world.run();
  assert.deepEqual([world.executed, drained], [[101, 103, 104, 110], 1]);
});

test('a client that is gone holds nobody up, and what it sent is dropped', () => {
  const world = new World([A, B, C]);
  world.add(A, 105);
  world.add(B, 107);
  world.queue.complete(A as ClientUuid);
  world.queue.complete(B as ClientUuid);
  assert.deepEqual(world.executed, []);
  world.queue.gone(C as ClientUuid);
  assert.deepEqual(world.executed, [105]);
  world.queue.gone(B as ClientUuid);
  world.run();
  assert.deepEqual([world.executed, world.queue.isIdle], [[105], true]);
});

test('a client that lost its connection sends again what was not executed, and is waited for', () => {
  const world = new World([A, B]);
  world.add(A, 101);
  world.add(A, 103);
  world.add(B, 102);
  world.run();
  world.add(A, 106);
  world.add(B, 108);
  assert.deepEqual(world.executed, [101, 102, 103, 106]);
  world.queue.lost(A as ClientUuid);
  let joined = 0;
  const joins = (transno: number): boolean =>
    world.queue.joins(A as ClientUuid, transno as Transno, () => {
      joined += 1;
    });
  assert.deepEqual([joins(103), joins(106), joined], [false, true, 0]);
  world.run();
  // 107 may still come from a.
  assert.deepEqual([world.executed.length, joined], [4, 1]);
  assert.equal(world.add(A, 107), true);
  world.queue.complete(A as ClientUuid);
  world.run();
  assert.deepEqual(world.executed.slice(4), [107, 108]);
});

test('what comes out of order is refused', () => {
  const world = new World([A, B]);
  assert.deepEqual([world.add(A, 100), world.add('x', 101)], [false, false]);
  world.add(A, 110);
  assert.deepEqual([world.add(A, 110), world.add(A, 109), world.add(A, 111)], [false, false, true]);
  world.queue.complete(B as ClientUuid);
  assert.deepEqual([world.executed, world.add(B, 112)], [[110], false]);
});

test('whatever the order in which replays arrive, they are executed in that of their transnos, all of them', () => {
  const scenario = fc.record({
    owners: fc.array(fc.constantFrom(A, B, C), { minLength: 1, maxLength: 40 }),
    gaps: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 40, maxLength: 40 }),
    arrivals: fc.array(fc.constantFrom(A, B, C, 'end'), { maxLength: 200 }),
  });
  fc.assert(
    fc.property(scenario, ({ owners, gaps, arrivals }) => {
      const world = new World([A, B, C]);
      const outbox = new Map<string, number[]>([A, B, C].map((client) => [client, []]));
      let transno = LAST;
      const all = owners.map((owner, index) => {
        transno += gaps[index] ?? 1;
        outbox.get(owner)?.push(transno);
        return transno;
      });
      const send = (client: string): void => {
        const next = outbox.get(client)?.shift();
        if (next === undefined) world.queue.complete(client as ClientUuid);
        else assert.equal(world.add(client, next), true);
      };
      for (const event of arrivals) {
        if (event === 'end') (world.running.pop() ?? world.planned.pop())?.();
        else send(event);
      }
      for (const client of [A, B, C]) {
        while ((outbox.get(client) ?? []).length > 0) send(client);
        world.queue.complete(client as ClientUuid);
      }
      world.run();
      assert.deepEqual([world.executed, world.queue.isIdle], [all, true]);
      assert.ok(world.idle > 0);
    }),
  );
});

test('a client that does one operation at a time has one slot; acknowledged ones are used again', () => {
  const slots = new DurableAnswers();
  const taken: number[] = [];
  for (let xid = 10; xid < 20; xid += 1) {
    slots.acknowledge(xid);
    taken.push(slots.slotFor(xid as Xid));
  }
  assert.deepEqual(new Set(taken), new Set([0]));
  assert.deepEqual(
    [20, 21, 22].map((xid) => slots.slotFor(xid as Xid)),
    [1, 2, 3],
  );
  slots.acknowledge(21);
  assert.deepEqual([23, 24, 25].map((xid) => slots.slotFor(xid as Xid)).sort(), [0, 1, 4]);
});

test('slots go on where an earlier instance left them, and say what it did until that is acknowledged', () => {
  const slots = new DurableAnswers();
  const reply = (slot: number, xid: number) => ({
    slot,
    xid: xid as Xid,
    opcode: 68,
    transno: (1000 + xid) as Transno,
    fid: 0 as const,
    copiedBytes: 0,
  });
  assert.equal(slots.inherit([reply(3, 7), reply(0, 9), reply(1, 8)]), 1009);
  assert.deepEqual(
    [slots.inherited(8 as Xid)?.transno, slots.inherited(6 as Xid), slots.mayHaveLost(6 as Xid)],
    [1008, undefined, false],
  );
  // 2 was free before, 0 and 1 are.
  assert.equal(slots.slotFor(10 as Xid), 2);
  slots.acknowledge(9);
  assert.deepEqual([slots.inherited(8 as Xid), slots.inherited(9 as Xid)?.xid], [undefined, 9]);
  assert.deepEqual([11, 12, 13].map((xid) => slots.slotFor(xid as Xid)).sort(), [1, 3, 4]);
});

test('a client that acknowledges nothing loses the oldest, and that is known', () => {
  const slots = new DurableAnswers();
  for (let xid = 1; xid <= SLOTS_MAX; xid += 1) slots.slotFor(xid as Xid);
  assert.equal(slots.mayHaveLost(1 as Xid), false);
  assert.equal(slots.slotFor((SLOTS_MAX + 1) as Xid), 0);
  assert.deepEqual([slots.mayHaveLost(1 as Xid), slots.mayHaveLost(2 as Xid)], [true, false]);
});

test('locks that are replayed a second time are the same ones, each as often as it is held', () => {
  const locks = new ReclaimedLocks();
  const spec = { type: 'data', fid: 5, mode: 'PR', bits: 0 } as never;
  assert.equal(locks.take(spec), undefined);
  const held = [1, 2, 3].map((handle) => ({
    type: 'data',
    fid: 5,
    mode: 'PR',
    bits: 0,
    handle,
    client: 'a',
  }));
  locks.begin(held as never);
  assert.deepEqual(
    [locks.take(spec), locks.take(spec), locks.rest(), locks.take(spec)],
    [1, 2, [3], undefined],
  );
});
