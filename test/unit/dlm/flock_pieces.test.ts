import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cut, put, type Span } from '../../../src/dlm/flock_pieces.js';

test('flock pieces: one of thousands is set and cut out without a look at all of them', () => {
  let looks = 0;
  const counted = (start: number): Span => ({
    start,
    get end() {
      looks += 1;
      return start + 1;
    },
  });
  const COUNT = 4096;
  // Neither in order nor at one end.
  const starts = Array.from({ length: COUNT }, (_, at) => ((at * 1031) % COUNT) * 2);
  const pieces: Span[] = [];
  for (const start of starts) put(pieces, counted(start));
  assert.equal(pieces.length, COUNT);
  for (const start of starts) assert.equal(cut(pieces, start, start + 1).removed.length, 1);
  assert.deepEqual([pieces.length, looks < 64 * COUNT], [0, true], `${looks} looks`);
});
