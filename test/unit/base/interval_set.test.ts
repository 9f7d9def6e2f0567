import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AssertionFailure } from '../../../src/base/assert.js';
import { IntervalSet } from '../../../src/base/interval_set.js';

test('ranges that overlap or touch are joined, and removal splits', () => {
  const set = new IntervalSet();
  const grown = [set.add(10, 20), set.add(30, 40), set.add(20, 25), set.add(24, 31), set.add(12, 15)];
  assert.deepEqual([grown, [...set], set.total], [[10, 10, 5, 5, 0], [{ start: 10, end: 40 }], 30]);
  const removed = [set.remove(0, 10), set.remove(15, 20), set.remove(38, 99)];
  assert.deepEqual(
    [removed, [...set], set.total],
    [
      [0, 5, 2],
      [
        { start: 10, end: 15 },
        { start: 20, end: 38 },
      ],
      23,
    ],
  );
});

test('an end may be infinite', () => {
  const set = new IntervalSet();
  assert.deepEqual([set.add(100, Infinity), set.add(5, 10), set.add(200, Infinity)], [Infinity, 5, 0]);
  assert.deepEqual([set.total, set.contains(1e15, Infinity), set.overlaps(10, 100)], [Infinity, true, false]);
  assert.equal(set.remove(150, Infinity), Infinity);
  assert.deepEqual([[...set].at(-1), set.total], [{ start: 100, end: 150 }, 55]);
});

test('an inverted range is a bug of the caller', () => {
  assert.throws(() => new IntervalSet().add(5, 4), AssertionFailure);
  assert.throws(() => new IntervalSet().remove(0.5, 4), AssertionFailure);
});

const SPAN = 40;
const range = fc.tuple(fc.nat(SPAN), fc.nat(SPAN)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);

/** The maximal runs of [start, end) in which every element is, or is not, in the naive set. */
function runs(naive: ReadonlySet<number>, start: number, end: number, inside: boolean): object[] {
  const found: { start: number; end: number }[] = [];
  for (let at = start; at < end; at += 1) {
    if (naive.has(at) !== inside) continue;
    const last = found.at(-1);
    if (last?.end === at) last.end = at + 1;
    else found.push({ start: at, end: at + 1 });
  }
  return found;
}

test('it behaves as a set of integers does', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), range), { maxLength: 60 }), range, (steps, [start, end]) => {
      const set = new IntervalSet();
      const naive = new Set<number>();
      for (const [adds, [from, to]] of steps) {
        const before = naive.size;
        for (let at = from; at < to; at += 1) adds ? naive.add(at) : naive.delete(at);
        const changed = adds ? set.add(from, to) : set.remove(from, to);
        assert.equal(changed, Math.abs(naive.size - before));
        assert.equal(set.total, naive.size);
        set.checkInvariants();
      }
      const all = runs(naive, 0, SPAN, true);
      const inRange = runs(naive, start, end, true);
      const gaps = runs(naive, start, end, false);
      assert.deepEqual(
        [
          [...set],
          set.count,
          set.isEmpty,
          set.first(),
          set.last(),
          set.within(start, end),
          set.gaps(start, end),
        ],
        [all, all.length, all.length === 0, all[0], all.at(-1), inRange, gaps],
      );
      assert.deepEqual(
        [set.contains(start, end), set.overlaps(start, end)],
        [gaps.length === 0, inRange.length > 0],
      );
      set.clear();
      assert.deepEqual([[...set], set.total], [[], 0]);
    }),
    { numRuns: 2000 },
  );
});
