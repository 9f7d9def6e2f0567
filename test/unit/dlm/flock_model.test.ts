/**
 * Application locks against a naive model: one cell a byte and owner. Random calls of several owners on one file must
 * leave the same cells locked, in the same way, and grant and refuse the same calls.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FsError } from '../../../src/base/errno.js';
import type { ClientUuid, LockHandle } from '../../../src/base/ids.js';
import { LOCK_OFFSET_MAX, type LockOffset, lockOffset } from '../../../src/base/lock_offset.js';
import { type FlockKind, ownerOf } from '../../../src/dlm/flock_file.js';
import { FlockTable } from '../../../src/dlm/flock_table.js';
import { fid, range } from '../../worlds/dlm_world.js';

const BYTES = 12;
/** Where the bytes lie: at the start, on both sides of 2^53, and the last ones there are, whose end is that of the file. */
const BASES = [0n, 2n ** 53n - 6n, LOCK_OFFSET_MAX + 1n - BigInt(BYTES)] as const;

/** The place of a byte; undefined: behind the last there is. */
function placeOf(base: bigint, byte: number): LockOffset | undefined {
  const at = base + BigInt(byte);
  return at > LOCK_OFFSET_MAX ? undefined : lockOffset(at);
}

function rangeAt(base: bigint, who: Omit<Who, 'client'>, start: number, end: number, exclusive: boolean) {
  return range(who.kind, who.owner, placeOf(base, start) ?? 0, placeOf(base, end), exclusive);
}
const F = fid(1);

interface Who {
  readonly client: ClientUuid;
  readonly kind: FlockKind;
  readonly owner: string;
}
const OWNERS: readonly Who[] = [
  { client: 'a' as ClientUuid, kind: 'posix', owner: '1' },
  { client: 'a' as ClientUuid, kind: 'posix', owner: '2' },
  { client: 'b' as ClientUuid, kind: 'posix', owner: '1' },
  { client: 'b' as ClientUuid, kind: 'ofd', owner: '1' },
  { client: 'c' as ClientUuid, kind: 'ofd', owner: '3' },
  { client: 'a' as ClientUuid, kind: 'flock', owner: '1' },
  { client: 'b' as ClientUuid, kind: 'flock', owner: '1' },
  { client: 'c' as ClientUuid, kind: 'flock', owner: '1' },
];

type Cell = 'none' | 'read' | 'write';

interface Waiting {
  readonly who: number;
  readonly start: number;
  readonly end: number;
  readonly cell: Cell;
  readonly handle: LockHandle;
}

/** Fcntl(2) and flock(2), as literally as possible. */
class Naive {
  readonly cells: Cell[][] = OWNERS.map(() => new Array<Cell>(BYTES).fill('none'));
  waiting: Waiting[] = [];
  granted: LockHandle[] = [];

  /** The owners in the way. */
  blockers(who: number, start: number, end: number, cell: Cell): number[] {
    const mine = OWNERS[who] as Who;
    return [...OWNERS.keys()].filter((index) => {
      if (index === who || (OWNERS[index]?.kind === 'flock') !== (mine.kind === 'flock')) return false;
      return (this.cells[index] as Cell[])
        .slice(start, end)
        .some((held) => held === 'write' || (held === 'read' && cell === 'write'));
    });
  }

  free(who: number, start: number, end: number, cell: Cell): boolean {
    return this.blockers(who, start, end, cell).length === 0;
  }

  /** Follows who waits for whom as far as it goes, from the owners in the way of a posix call. */
  deadlocks(who: number, start: number, end: number, cell: Cell): boolean {
    if (OWNERS[who]?.kind !== 'posix') return false;
    const reached = new Set(this.blockers(who, start, end, cell));
    for (const owner of reached) {
      for (const call of this.waiting) {
        if (call.who !== owner || OWNERS[owner]?.kind !== 'posix') continue;
        for (const next of this.blockers(call.who, call.start, call.end, call.cell)) reached.add(next);
      }
    }
    return reached.has(who);
  }

  fill(who: number, start: number, end: number, cell: Cell): void {
    (this.cells[who] as Cell[]).fill(cell, start, end);
  }

  /** Grants what waits, in order, from the front after each grant. */
  settle(): void {
    for (;;) {
      const next = this.waiting.find((call) => this.free(call.who, call.start, call.end, call.cell));
      if (next === undefined) return;
      this.waiting = this.waiting.filter((call) => call !== next);
      this.fill(next.who, next.start, next.end, next.cell);
      this.granted.push(next.handle);
    }
  }
}

const who = fc.integer({ min: 0, max: OWNERS.length - 1 });
const bounds = fc
  .tuple(fc.integer({ min: 0, max: BYTES - 1 }), fc.integer({ min: 1, max: BYTES }))
  .map(([start, length]) => ({ start, end: Math.min(BYTES, start + length) }));
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('lock' as const),
      who,
      bounds,
      exclusive: fc.boolean(),
      wait: fc.boolean(),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('unlock' as const), who, bounds }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('cancel' as const), pick: fc.nat(20) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('drop' as const), client: fc.constantFrom('a', 'b', 'c') }),
  },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class Pair {
  readonly base: bigint;
  readonly naive = new Naive();
  readonly casts: LockHandle[] = [];
  #next = 1;
  readonly table = new FlockTable(
    () => this.#next++ as LockHandle,
    (_client, handle, errno) => {
      // One thread an owner here would never do; several do, and Linux too tells them late.
      if (errno === undefined) this.casts.push(handle);
      else this.naive.waiting = this.naive.waiting.filter((call) => call.handle !== handle);
    },
  );

  constructor(base: bigint) {
    this.base = base;
  }

  run(step: Step): void {
    const { naive, table } = this;
    if (step.do === 'drop') {
      const gone = (index: number): boolean => OWNERS[index]?.client === step.client;
      table.dropClient(step.client as ClientUuid);
      naive.waiting = naive.waiting.filter((call) => !gone(call.who));
      for (const index of OWNERS.keys()) if (gone(index)) naive.fill(index, 0, BYTES, 'none');
      naive.settle();
      return;
    }
    if (step.do === 'cancel') {
      const call = naive.waiting[step.pick % Math.max(1, naive.waiting.length)];
      if (call === undefined) return;
      table.cancel((OWNERS[call.who] as Who).client, call.handle);
      naive.waiting = naive.waiting.filter((other) => other !== call);
      return;
    }
    const { client, kind, owner } = OWNERS[step.who] as Who;
    const { start, end } = kind === 'flock' ? { start: 0, end: BYTES } : step.bounds;
    if (step.do === 'unlock') {
      table.unlock(client, F, rangeAt(this.base, { kind, owner }, start, end, false));
      naive.fill(step.who, start, end, 'none');
      naive.settle();
      return;
    }
    this.lock(step, { client, kind, owner }, start, end);
  }

  lock(
    step: Extract<Step, { readonly do: 'lock' }>,
    { client, kind, owner }: Who,
    start: number,
    end: number,
  ): void {
    const { naive, table } = this;
    const cell: Cell = step.exclusive ? 'write' : 'read';
    if (kind === 'flock') naive.fill(step.who, start, end, 'none');
    const free = naive.free(step.who, start, end, cell);
    const deadlock = naive.deadlocks(step.who, start, end, cell);
    try {
      const wanted = rangeAt(this.base, { kind, owner }, start, end, step.exclusive);
      const grant = table.lock(client, F, wanted, step.wait);
      assert.deepEqual([grant.granted, deadlock && !free], [free, false]);
      if (free) naive.fill(step.who, start, end, cell);
      else naive.waiting.push({ who: step.who, start, end, cell, handle: grant.handle });
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      assert.deepEqual([free, error.code], [false, step.wait ? 'EDEADLK' : 'EAGAIN']);
      if (step.wait) assert.ok(deadlock, 'EDEADLK without a cycle');
    }
    naive.settle();
  }

  /** What each owner holds of a byte, by asking as an owner that holds nothing. */
  check(): void {
    this.table.checkInvariants();
    assert.deepEqual(this.casts, this.naive.granted);
    for (let byte = 0; byte < BYTES; byte++) {
      for (const world of ['posix', 'flock'] as const) {
        const probe = (exclusive: boolean): boolean => {
          const at =
            world === 'flock'
              ? range(world, 'probe', 0, undefined, exclusive)
              : rangeAt(this.base, { kind: world, owner: 'probe' }, byte, byte + 1, exclusive);
          return this.table.test('z' as ClientUuid, F, at) !== undefined;
        };
        const held = OWNERS.map((owner, index) =>
          (owner.kind === 'flock') === (world === 'flock')
            ? (this.naive.cells[index] as Cell[])[byte]
            : 'none',
        );
        assert.equal(
          probe(true),
          held.some((cell) => cell !== 'none'),
        );
        assert.equal(probe(false), held.includes('write'));
      }
    }
  }
}

test('ranges, grants and refusals equal those of a byte-by-byte model', () => {
  fc.assert(
    fc.property(fc.constantFrom(...BASES), fc.array(step, { maxLength: 50 }), (base, steps) => {
      const pair = new Pair(base);
      for (const step of steps) {
        pair.run(step);
        pair.check();
      }
      for (const client of ['a', 'b', 'c']) pair.table.dropClient(client as ClientUuid);
      assert.deepEqual([pair.table.size, pair.table.clients()], [0, []]);
    }),
    { numRuns: 500 },
  );
});

const MINE = { kind: 'posix', owner: '1' } as const;

test('taking a granted call back restores every byte that was not touched since', () => {
  const call = fc.record({ bounds, cell: fc.constantFrom<Cell>('none', 'read', 'write') });
  fc.assert(
    fc.property(
      fc.constantFrom(...BASES),
      fc.array(call, { maxLength: 12 }),
      call.filter(({ cell }) => cell !== 'none'),
      fc.array(call, { maxLength: 4 }),
      (base, before, undone, after) => {
        let next = 1;
        const table = new FlockTable(
          () => next++ as LockHandle,
          () => {},
        );
        const client = 'a' as ClientUuid;
        const cells = new Array<Cell>(BYTES).fill('none');
        const apply = ({ bounds: { start, end }, cell }: typeof undone): LockHandle | undefined => {
          const wanted = rangeAt(base, MINE, start, end, cell === 'write');
          if (cell !== 'none') return table.lock(client, F, wanted, false).handle;
          table.unlock(client, F, wanted);
          return undefined;
        };
        for (const step of before) {
          apply(step);
          cells.fill(step.cell, step.bounds.start, step.bounds.end);
        }
        const handle = apply(undone) as LockHandle;
        for (const step of after) {
          apply(step);
          cells.fill(step.cell, step.bounds.start, step.bounds.end);
        }
        table.cancel(client, handle);
        const seen = cells.map((_, byte): Cell => {
          const probe = rangeAt(base, { kind: 'posix', owner: '9' }, byte, byte + 1, true);
          const found = table.test('z' as ClientUuid, F, probe);
          return found === undefined ? 'none' : found.exclusive ? 'write' : 'read';
        });
        assert.deepEqual(seen, cells);
        table.unlock(client, F, range('posix', '1', 0, undefined, false));
        assert.deepEqual([table.size, table.count(client)], [0, 0]);
      },
    ),
    { numRuns: 500 },
  );
});

test('an owner is the same whoever made it', () => {
  const a = ownerOf('a' as ClientUuid, range('posix', '1', 0, 1, true));
  const b = ownerOf('a' as ClientUuid, range('posix', '1', 5, 9, false));
  assert.equal(a.key, b.key);
});
