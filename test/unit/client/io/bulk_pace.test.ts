import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BulkPace } from '../../../../src/client/io/bulk_pace.js';

const KIB = 1024;
const MOST = 8192 * KIB;

/** Sends as many bytes as it may at a time through a line. @returns the limit after so many rounds. */
function settle(bytesASecond: number, wayMs: number, rounds: number): BulkPace {
  const pace = new BulkPace(MOST);
  let now = 0;
  for (let round = 0; round < rounds; round += 1) {
    const sentMs = now;
    const pieces = Math.max(1, Math.floor(pace.limitBytes / pace.pieceBytes));
    const { pieceBytes } = pace;
    for (let piece = 1; piece <= pieces; piece += 1) {
      now = sentMs + 2 * wayMs + ((piece * pieceBytes) / bytesASecond) * 1000;
      pace.answered(sentMs, now);
    }
  }
  return pace;
}

test('the bytes under way follow the line: about a second of a slow one, all there may be of a fast one', () => {
  const lines: [number, number][] = [
    [32_000, 150],
    [125_000, 150],
    [1_250_000, 150],
    [1_000_000_000, 0.1],
  ];
  const limits = lines.map(([rate, way]) => settle(rate, way, 40).limitBytes);
  assert.deepEqual(limits.slice(0, 2), [64 * KIB, 128 * KIB]);
  assert.ok((limits[2] ?? 0) >= 512 * KIB && (limits[2] ?? 0) <= 2048 * KIB, `${limits[2]}`);
  assert.equal(limits[3], MOST);
});

test('WRITEs that were sent together lower the limit once', () => {
  const pace = settle(1_000_000_000, 0.1, 20);
  for (let n = 0; n < 8; n += 1) pace.answered(1000, 5000 + n);
  assert.equal(pace.limitBytes, MOST / 2);
});
