/** LeanMap and LeanSet behave as Map and Set do, whatever is done to them. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LeanMap, LeanSet } from '../../../src/base/lean_map.js';

test('a lean map holds what a Map holds after the same calls, in the same order', () => {
  const key = fc.integer({ min: 0, max: 3 });
  const call = fc.oneof(
    fc.record({ do: fc.constant('set' as const), key, value: fc.integer() }),
    fc.record({ do: fc.constant('delete' as const), key, value: fc.constant(0) }),
  );
  fc.assert(
    fc.property(fc.array(call, { maxLength: 30 }), (calls) => {
      const lean = new LeanMap<number, number>();
      const model = new Map<number, number>();
      for (const { do: what, key: at, value } of calls) {
        if (what === 'set') {
          lean.set(at, value);
          model.set(at, value);
        } else {
          assert.equal(lean.delete(at), model.delete(at));
        }
        const keys = [0, 1, 2, 3];
        assert.deepEqual([lean.size, [...lean.values()]], [model.size, [...model.values()]]);
        assert.deepEqual(
          keys.map((each) => [lean.has(each), lean.get(each)]),
          keys.map((each) => [model.has(each), model.get(each)]),
        );
      }
    }),
  );
});

test('items may leave a lean set while it is walked through', () => {
  const set = new LeanSet<number>();
  for (const item of [1, 2, 3]) set.add(item);
  const seen: number[] = [];
  for (const item of set) {
    seen.push(item);
    set.delete(item);
  }
  assert.deepEqual([seen, set.size], [[1, 2, 3], 0]);
});
