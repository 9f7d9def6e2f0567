/** The fuzz of the message decoder: what must hold is in test/fixtures/fuzz/message_property.ts. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fuzzMessages } from '../../fixtures/fuzz/fuzz.js';

test('any body is EPROTO, or a message that means the same when it is written again', async () => {
  const { inputs, mutated } = await fuzzMessages({ seed: 1, mutations: 20 });
  assert.ok(inputs > 200 && mutated > 4000, `${inputs} inputs, ${mutated} mutated`);
});
