/** Space against a plain list of block states. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Extent, ExtentAllocator, GROUP_BLOCKS } from '../../../../src/storage/meta/extent_allocator.js';

type State = 'free' | 'handedOut' | 'used' | 'freed';
const FIRST = 16;

/** The allocator beside what each block should be; every step checks both. */
class Checked {
  readonly states: State[];
  readonly allocator: ExtentAllocator;
  readonly records = new Map<number, Buffer>();
  handedOut: Extent[] = [];
  used: Extent[] = [];
  freed: Extent[] = [];

  constructor(total: number) {
    this.allocator = new ExtentAllocator(total, FIRST);
    this.states = Array.from({ length: total }, (_, block) => (block < FIRST ? 'used' : 'free'));
  }
  count(state: State): number {
    return this.states.filter((each) => each === state).length;
  }
  move(extent: Extent, from: State, to: State): void {
    for (let block = extent.start; block < extent.start + extent.count; block++) {
      assert.equal(this.states[block], from, `block ${block}`);
      this.states[block] = to;
    }
  }
  reserve(count: number, hint: number): void {
    const hintFree = hint > 0 && this.states[hint] === 'free';
    const free = this.count('free');
    const extents = this.allocator.reserve(count, hint);
    if (count > free) {
      assert.equal(extents, undefined);
      return;
    }
    assert.ok(extents !== undefined);
    assert.equal(
      extents.reduce((sum, extent) => sum + extent.count, 0),
      count,
    );
    if (hintFree) assert.equal(extents[0]?.start, hint);
    for (const extent of extents) this.move(extent, 'free', 'handedOut');
    this.handedOut.push(...extents);
  }
  step(which: number, does: number): void {
    const pick = (from: Extent[]): Extent | undefined => from.splice(which % Math.max(1, from.length), 1)[0];
    if (does === 0) {
      const extent = pick(this.handedOut);
      if (extent === undefined) return;
      this.allocator.markUsed(extent);
      this.move(extent, 'handedOut', 'used');
      this.used.push(extent);
    } else if (does === 1) {
      const extent = pick(this.handedOut);
      if (extent === undefined) return;
      this.allocator.release(extent, 'unused');
      this.move(extent, 'handedOut', 'free');
    } else if (does === 2) {
      const extent = pick(this.used);
      if (extent === undefined) return;
      this.allocator.markFreed(extent);
      this.move(extent, 'used', 'freed');
      this.freed.push(extent);
    } else {
      const extent = pick(this.freed);
      if (extent === undefined) return;
      this.allocator.release(extent, 'freed');
      this.move(extent, 'freed', 'free');
    }
  }
  verify(): void {
    this.allocator.checkInvariants();
    assert.equal(this.allocator.freeBlocks, this.count('free'));
    assert.equal(this.allocator.freedNotDurable, this.count('freed'));
  }
  save(): void {
    for (const { group, record } of this.allocator.takeDirtyGroups()) {
      if (record === undefined) this.records.delete(group);
      else this.records.set(group, record);
    }
  }
}

test('blocks are handed out once, come back exactly, and records bring back what is used', () => {
  const total = fc.constantFrom(40, 200, GROUP_BLOCKS, GROUP_BLOCKS + 77);
  const step = fc.oneof(
    fc.record({ count: fc.integer({ min: 1, max: 90 }), hint: fc.nat(GROUP_BLOCKS + 100) }),
    fc.record({ which: fc.nat(1000), does: fc.nat(3) }),
  );
  fc.assert(
    fc.property(total, fc.array(step, { maxLength: 80 }), (blocks, steps) => {
      const checked = new Checked(blocks);
      for (const each of steps) {
        if ('count' in each) checked.reserve(each.count, each.hint);
        else checked.step(each.which, each.does);
        checked.verify();
      }
      checked.save();
      const loaded = new ExtentAllocator(blocks, FIRST);
      for (const [group, record] of checked.records) loaded.load(group, record);
      assert.deepEqual(
        checked.states.map((_, block) => loaded.isUsed(block)),
        checked.states.map((state) => state === 'used'),
      );
      assert.equal(loaded.freeBlocks, blocks - checked.count('used'));
    }),
    { numRuns: 300 },
  );
});

test('a large request gets one run when there is one, pieces when there is none', () => {
  const allocator = new ExtentAllocator(2 * GROUP_BLOCKS, FIRST);
  assert.deepEqual(allocator.reserve(10_000, 0), [{ start: 16, count: 10_000 }]);
  assert.deepEqual(allocator.reserve(100, 12_000), [{ start: 12_000, count: 100 }]);
  assert.deepEqual(allocator.reserve(3000, 0), [{ start: 12_100, count: 3000 }]);
  allocator.release({ start: 500, count: 50 }, 'unused');
  const rest = allocator.freeBlocks;
  const extents = allocator.reserve(rest, 0);
  assert.equal(
    extents?.reduce((sum, extent) => sum + extent.count, 0),
    rest,
  );
  assert.equal(allocator.reserve(1, 0), undefined);
});

test('a group that is all used or all free has a short record or none', () => {
  const allocator = new ExtentAllocator(4 * GROUP_BLOCKS, FIRST);
  const group = { start: GROUP_BLOCKS, count: GROUP_BLOCKS };
  assert.deepEqual(allocator.reserve(GROUP_BLOCKS, GROUP_BLOCKS), [group]);
  allocator.markUsed(group);
  assert.deepEqual(allocator.takeDirtyGroups(), [{ group: 1, record: Buffer.from([1, 1]) }]);
  allocator.markFreed(group);
  assert.deepEqual(allocator.takeDirtyGroups(), [{ group: 1, record: undefined }]);
});
