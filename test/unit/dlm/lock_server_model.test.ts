/**
 * The lock server against random histories. What must hold after every step, whatever happened before:
 * no two conflicting locks of different clients are granted; whoever waits waits for somebody, and every holder in the
 * way of those at the head was called back; nobody passes a waiter it conflicts with, except in its turn; nobody gets a
 * lock over an uncommitted change of another client. In the end, when all is given back and committed, everyone got what
 * they asked for and nothing is left.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { ClientUuid, LockHandle, Transno } from '../../../src/base/ids.js';
import type { HeldLock, LockSpec, Mode } from '../../../src/dlm/api.js';
import { inLockOrder, modesConflict } from '../../../src/dlm/modes.js';
import { PAUSE_MS } from '../../../src/dlm/turns.js';
import { EMPTY, fid, Outcome, startWorld } from '../../worlds/dlm_world.js';

const CLIENTS = ['a', 'b', 'c'] as ClientUuid[];
const GONE = 'gone' as ClientUuid;

type Step =
  | { readonly do: 'enqueue' | 'try'; readonly client: number; readonly spec: LockSpec }
  | { readonly do: 'acquire'; readonly client: number | undefined; readonly specs: readonly LockSpec[] }
  | { readonly do: 'cancel' | 'release' | 'abort' | 'answer'; readonly pick: number }
  | { readonly do: 'change'; readonly pick: number }
  | { readonly do: 'commit' }
  | { readonly do: 'pass'; readonly ms: number }
  | { readonly do: 'drop'; readonly client: number };

/** One request of the test: a client's lock, or an operation. */
interface Ask {
  readonly client: ClientUuid | undefined;
  readonly operation: boolean;
  readonly specs: readonly LockSpec[];
  readonly abort: AbortController;
  readonly outcome: Outcome<LockHandle | (() => void)>;
  ended: boolean;
  /** Seen to be granted. */
  seen: boolean;
}

/** What was changed and not committed. */
interface Change {
  readonly client: ClientUuid;
  readonly spec: LockSpec;
  readonly transno: number;
}

const clientLock: fc.Arbitrary<LockSpec> = fc.oneof(
  fc.record({
    type: fc.constant('inode' as const),
    fid: fc.constantFrom(fid(1), fid(2)),
    mode: fc.constantFrom<Mode>('PR', 'PR', 'CR', 'PW', 'EX'),
    bits: fc.integer({ min: 1, max: 3 }),
  }),
  fc.record({
    type: fc.constant('data' as const),
    fid: fc.constantFrom(fid(1), fid(2)),
    mode: fc.constantFrom<Mode>('PR', 'PW'),
    bits: fc.constant(0),
  }),
);
const operationLock: fc.Arbitrary<LockSpec> = clientLock.chain((spec) =>
  fc.constantFrom<Mode>('EX', 'EX', 'PR').map((mode) => ({ ...spec, mode })),
);
const client = fc.integer({ min: 0, max: CLIENTS.length - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('enqueue' as const), client, spec: clientLock }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('try' as const), client, spec: clientLock }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('acquire' as const),
      client: fc.option(client, { nil: undefined }),
      specs: fc.array(operationLock, { minLength: 1, maxLength: 3 }),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom('cancel' as const, 'release' as const, 'answer' as const, 'answer' as const),
      pick: fc.nat(50),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('abort' as const), pick: fc.nat(50) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('change' as const), pick: fc.nat(50) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('commit' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 30 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('drop' as const), client }) },
);

class Model {
  /** No BAST is said again here. */
  readonly world = startWorld({ lockTimeoutMs: 1e9 });
  readonly asks: Ask[] = [];
  changes: Change[] = [];
  #transno = 0;

  get server() {
    return this.world.server;
  }

  ask(
    client: ClientUuid | undefined,
    operation: boolean,
    specs: readonly LockSpec[],
    abort: AbortController,
    result: ConstructorParameters<typeof Outcome<LockHandle | (() => void)>>[0],
  ): void {
    this.asks.push({
      client,
      operation,
      specs,
      abort,
      outcome: new Outcome(result),
      ended: false,
      seen: false,
    });
  }

  run(step: Step): void {
    const abort = new AbortController();
    switch (step.do) {
      case 'enqueue': {
        const client = CLIENTS[step.client] as ClientUuid;
        this.ask(client, false, [step.spec], abort, this.server.enqueue(client, step.spec, abort.signal));
        return;
      }
      case 'try': {
        const client = CLIENTS[step.client] as ClientUuid;
        const handle = this.server.tryEnqueue(client, step.spec);
        if (handle !== undefined) this.ask(client, false, [step.spec], abort, handle);
        return;
      }
      case 'acquire': {
        const client = step.client === undefined ? undefined : CLIENTS[step.client];
        const specs = inLockOrder(step.specs);
        this.ask(client, true, specs, abort, this.server.acquire(client, step.specs, abort.signal));
        return;
      }
      case 'cancel':
      case 'release':
        this.giveBack(this.picked(step.pick, (ask) => ask.operation === (step.do === 'release')));
        return;
      case 'answer': {
        const called = new Set(this.world.basts.map((lock) => lock.handle));
        this.giveBack(
          this.picked(step.pick, (ask) => !ask.operation && called.has(ask.outcome.value as LockHandle)),
        );
        return;
      }
      case 'abort':
        this.pickFrom(
          this.asks.filter((ask) => ask.outcome.state === 'waiting'),
          step.pick,
        )?.abort.abort();
        return;
      case 'change':
        this.change(this.picked(step.pick, (ask) => ask.client !== undefined));
        return;
      case 'commit':
        this.commit();
        return;
      case 'pass':
        this.world.time.advance(step.ms);
        return;
      case 'drop':
        this.drop(CLIENTS[step.client] as ClientUuid);
    }
  }

  /** An operation takes effect under its locks, or the changes of a client under locks of its own. */
  change(ask: Ask | undefined): void {
    const { client, specs } = ask ?? { client: undefined, specs: [] };
    if (client === undefined) return;
    this.#transno++;
    for (const spec of specs) {
      if (spec.mode !== 'EX') continue;
      this.changes.push({ client, spec, transno: this.#transno });
      this.server.changed(client, spec, this.#transno as Transno);
    }
  }

  commit(): void {
    this.changes = [];
    this.server.committed(this.#transno as Transno);
  }

  /** An uncommitted change of somebody else is in its way. */
  sharesChange(ask: Ask): boolean {
    return this.changes.some(
      (change) =>
        change.client !== ask.client &&
        ask.specs.some((spec) => specsConflict(spec, { ...change.spec, mode: 'EX' })),
    );
  }

  drop(client: ClientUuid): void {
    this.server.dropClient(client);
    // Whoever comes under this name later is somebody else.
    this.changes = this.changes.map((change) =>
      change.client === client ? { ...change, client: GONE } : change,
    );
    for (const ask of this.asks) {
      if (ask.client === client && (!ask.operation || ask.outcome.state === 'waiting')) ask.ended = true;
    }
  }

  pickFrom(asks: readonly Ask[], pick: number): Ask | undefined {
    return asks[pick % Math.max(1, asks.length)];
  }

  picked(pick: number, filter: (ask: Ask) => boolean): Ask | undefined {
    return this.pickFrom(
      this.granted.filter((ask) => filter(ask)),
      pick,
    );
  }

  giveBack(ask: Ask | undefined): void {
    if (ask === undefined) return;
    ask.ended = true;
    const { value } = ask.outcome;
    if (typeof value === 'function') value();
    else if (value !== undefined && ask.client !== undefined) this.server.cancel(ask.client, [value]);
  }

  get granted(): Ask[] {
    return this.asks.filter((ask) => !ask.ended && ask.outcome.state === 'done');
  }
  get waiting(): Ask[] {
    return this.asks.filter((ask) => !ask.ended && ask.outcome.state === 'waiting');
  }

  inTheWay(a: Ask, b: Ask): boolean {
    if (!(a.operation && b.operation) && a.client === b.client) return false;
    return a.specs.some((x) => b.specs.some((y) => specsConflict(x, y)));
  }

  check(): void {
    this.server.checkInvariants();
    const { granted, waiting } = this;
    for (const [i, a] of granted.entries()) {
      for (const b of granted.slice(i + 1)) assert.ok(!this.inTheWay(a, b), 'conflicting locks are granted');
    }
    for (const ask of granted) {
      if (!ask.seen) assert.ok(!this.sharesChange(ask), 'granted over an uncommitted change');
      ask.seen = true;
    }
    const called = new Set(this.world.basts.map((lock: HeldLock) => lock.handle));
    assert.equal(called.size, this.world.basts.length, 'a BAST was said twice');
    for (const [i, ask] of waiting.entries()) {
      const holders = granted.filter((other) => this.inTheWay(ask, other));
      const ahead = waiting.slice(0, i).filter((other) => this.inTheWay(ask, other));
      // An operation that waits may hold locks that others wait for: those behind it in the order of asking. And it may come
      // to a thing later than those.
      const isLate = ask.operation && ask.specs.length > 1;
      const behind = waiting
        .slice(i + 1)
        .filter((other) => (other.operation || isLate) && this.inTheWay(ask, other));
      const shares = this.sharesChange(ask);
      assert.ok(shares || holders.length + ahead.length + behind.length > 0, 'a request waits for nobody');
      // It may be somebody's turn: nobody is called back yet.
      if (shares) continue;
      if (ask.operation && ask.specs.length > 1) continue; // which of its locks it waits for is not visible here
      if (ahead.length + behind.length > 0) continue;
      for (const holder of holders) {
        if (holder.operation) continue;
        assert.ok(called.has(holder.outcome.value as LockHandle), 'a holder in the way was not called back');
      }
    }
  }
}

function specsConflict(a: LockSpec, b: LockSpec): boolean {
  if (a.type !== b.type || a.fid !== b.fid || !modesConflict(a.mode, b.mode)) return false;
  return a.type !== 'inode' || (a.bits & b.bits) !== 0;
}

test('random histories keep the invariants of the lock server, and leave nothing behind', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const model = new Model();
      for (const step of steps) {
        model.run(step);
        await model.world.time.turn();
        model.check();
      }
      // Everybody answers what they are called for and finishes: then everyone is served.
      for (let round = 0; model.waiting.length > 0; round++) {
        assert.ok(round < 1000, 'somebody waits for ever');
        const called = new Set(model.world.basts.map((lock) => lock.handle));
        for (const ask of model.granted) {
          if (ask.operation || called.has(ask.outcome.value as LockHandle)) model.giveBack(ask);
        }
        // Commits come when they are asked for, and only then.
        if (model.world.told().includes('commit')) model.commit();
        model.world.time.advance(1);
        await model.world.time.turn();
        model.check();
      }
      for (const ask of model.granted) if (ask.operation) model.giveBack(ask);
      for (const client of CLIENTS) model.drop(client);
      model.commit();
      // The last look whether a turn is over.
      model.world.time.advance(PAUSE_MS);
      assert.deepEqual(model.server.size, EMPTY);
      assert.equal(model.world.time.pending, 0);
    }),
    { numRuns: 300 },
  );
});
