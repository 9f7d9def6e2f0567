import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SLAB_BYTES, SlabPool } from '../../../src/base/slab_pool.js';

test('a slab that was given back is handed out again, and only to who wants a whole one', () => {
  const pool = new SlabPool(2);
  const slab = pool.take(SLAB_BYTES);
  pool.give(slab);
  assert.notEqual(pool.take(4096).buffer, slab.buffer);
  assert.equal(pool.take(SLAB_BYTES), slab);
  assert.equal(pool.free, 0);
});

test('the pool keeps no more than its limit, and nothing that is not a whole slab', () => {
  const pool = new SlabPool(1);
  const slabs = [pool.take(SLAB_BYTES), pool.take(SLAB_BYTES)];
  for (const slab of slabs) pool.give(slab);
  pool.give(Buffer.alloc(4096));
  assert.equal(pool.free, 1);
});

test('a view of a slab, or of larger memory, is not taken for a slab', () => {
  const pool = new SlabPool(4);
  pool.give(pool.take(SLAB_BYTES).subarray(1));
  pool.give(Buffer.allocUnsafeSlow(2 * SLAB_BYTES).subarray(0, SLAB_BYTES));
  assert.equal(pool.free, 0);
});

test('a slab given back twice is a bug that shows at once', () => {
  const pool = new SlabPool(4);
  const slab = pool.take(SLAB_BYTES);
  pool.give(slab);
  assert.throws(() => pool.give(slab), /given back twice/);
});

test('a pool that shall keep less lets go of what is above at once', () => {
  const pool = new SlabPool(3);
  for (const slab of [pool.take(SLAB_BYTES), pool.take(SLAB_BYTES), pool.take(SLAB_BYTES)]) pool.give(slab);
  pool.keepAtMost(1);
  assert.equal(pool.free, 1);
  pool.give(pool.take(SLAB_BYTES));
  assert.equal(pool.free, 1);
});
