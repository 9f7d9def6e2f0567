import assert from 'node:assert/strict';
import { test } from 'node:test';
import { growthRows } from '../../bench/growth.js';

test('growth goes up to the size that is asked for, in the order of sizes, by names of their own', () => {
  const names = growthRows(10_000).map(({ name }) => name);
  assert.deepEqual(
    names.filter((name) => name.endsWith(' entries')),
    ['1,000', '10,000'].flatMap((size) =>
      ['create', 'unlink', 'stat cold', 'readdir cold'].map((what) => `${what}, ${size} entries`),
    ),
  );
  assert.deepEqual(
    growthRows(10_000).flatMap(({ mounts }) => mounts ?? []),
    [1, 2, 4, 8, 16],
  );
  assert.equal(new Set(names).size, names.length);
});
