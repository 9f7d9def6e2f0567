/** The fuzz of everything before authentication: what must hold is in test/fixtures/fuzz/strangers.ts. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fuzzStrangers } from '../../fixtures/fuzz/strangers.js';
import { SimRng } from '../../sim/rng.js';

test('strangers with whatever bytes get nowhere, cost a line each, and leave nothing behind', async () => {
  const counts = await fuzzStrangers({
    rng: new SimRng(1),
    goesOn: (rounds) => rounds < 2,
    strangersPerRound: 250,
  });
  assert.equal(counts.total, 500);
  assert.ok(counts.refusals > 200, `${counts.refusals} refusals`);
  assert.ok(counts.reasons.length > 15, counts.reasons.join('\n'));
});
