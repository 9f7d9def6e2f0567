/** The supplementary groups of a caller. */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { groupsOf } from '../../../mount/groups.js';

test('groups are those of the process; of nobody that can be seen there are none', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-groups-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const process = (pid: number, status: string): void => {
    mkdirSync(join(folder, `${pid}`));
    writeFileSync(join(folder, `${pid}`, 'status'), status);
  };
  process(7, 'Name:\tx\nUid:\t1\t1\t1\t1\nGroups:\t4 24 1000 \nNStgid:\t7\n');
  process(8, 'Name:\tx\nGroups:\t \nNStgid:\t8\n');
  process(9, 'Name:\tGroups:\n');
  const found = [7, 8, 9, 10, 0, undefined].map((pid) => groupsOf({ pid }, folder));
  assert.deepEqual(found, [[4, 24, 1000], [], [], [], [], []]);
});
