/** The fuzz of the frame reader, and of the link that uses it: what must hold is in test/fixtures/fuzz/frame_property.ts. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fuzzFrames } from '../../fixtures/fuzz/fuzz.js';

test('any bytes, in any chunks, are the same frames or the same protocol error, within the memory that was announced', async () => {
  const { inputs, mutated } = await fuzzFrames({ seed: 1, mutations: 12 });
  assert.ok(inputs > 200 && mutated > 2000, `${inputs} inputs, ${mutated} mutated`);
});
