import assert from 'node:assert/strict';
import { test } from 'node:test';
import { firstHoldings, openMode } from '../../../src/base/holdings.js';

test('those that wait come first, the oldest before the others, then what is waited for', () => {
  const held = (id: string, waiters = 0) => ({ id, waits: false, waiters });
  const waits = (id: string, forMs: number) => ({ id, waits: true, waiters: 1, forMs });
  const all = [held('a'), waits('young', 5), held('b'), held('wanted', 1), waits('old', 900), held('c')];
  const ids = (limit: number): string[] => firstHoldings(all, limit).holdings.map(({ id }) => id);
  assert.deepEqual(ids(100), ['old', 'young', 'wanted', 'a', 'b', 'c']);
  assert.deepEqual(ids(4), ['old', 'young', 'wanted', 'a']);
  assert.equal(firstHoldings(all, 1).total, 6);
});

test('no list is longer than a reply takes', () => {
  const all = Array.from({ length: 3000 }, () => ({ waits: true, waiters: 1 }));
  const { holdings, total } = firstHoldings(all, 5000);
  assert.deepEqual([holdings.length, total], [1000, 3000]);
});

test('the access mode of open flags', () => {
  assert.deepEqual([0, 1, 2, 3, 0o100002].map(openMode), [
    'read',
    'write',
    'read write',
    'none',
    'read write',
  ]);
});
