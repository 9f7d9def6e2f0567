/** The FIDs by which a client may name new objects. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { FidRanges } from '../../../../src/server/export/fid_ranges.js';

function has(ranges: FidRanges, ...fids: number[]): boolean[] {
  return fids.map((fid) => ranges.has(fid as Fid));
}

test('a client may use the ranges that it got, and no others', () => {
  const ranges = new FidRanges();
  for (const start of [100, 200, 210, 300]) ranges.add({ start: start as Fid, end: (start + 10) as Fid });
  assert.deepEqual(has(ranges, 99, 100, 109, 110), [false, true, true, false]);
  assert.deepEqual(has(ranges, 199, 200, 209, 210, 219, 220), [false, true, true, true, true, false]);
  ranges.hasOlder(50);
  assert.deepEqual(has(ranges, 1, 49, 50), [true, true, false]);
});

test('a client that asks for ranges without end keeps the last ones', () => {
  const ranges = new FidRanges();
  const count = 5000;
  for (let n = 1; n <= count; n += 1) ranges.add({ start: (n * 100) as Fid, end: (n * 100 + 10) as Fid });
  const kept = Array.from({ length: count }, (_, at) => ranges.has(((at + 1) * 100) as Fid));
  const first = kept.indexOf(true);
  assert.ok(
    kept.slice(first).every((one) => one) && count - first >= 500 && count - first <= 1024,
    `${first}`,
  );
});
