/** What the bench counts as its own. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { descendantsUs } from '../../bench/load.js';

const BUSY_US = 200_000;
/** Of both clocks. */
const TICK_US = 10_000;

test('the time of a process that was started counts, and of one that it started, when both have ended', () => {
  const busy = `while (process.cpuUsage().user < ${BUSY_US});`;
  const parent = `require('node:child_process').spawnSync(process.execPath, ['-e', ${JSON.stringify(busy)}]); ${busy}`;
  const before = descendantsUs();
  assert.equal(spawnSync(process.execPath, ['-e', parent]).status, 0);
  const usedUs = descendantsUs() - before;
  assert.ok(usedUs >= 2 * (BUSY_US - TICK_US), `${usedUs} us`);
});
