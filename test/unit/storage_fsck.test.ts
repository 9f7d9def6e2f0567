/** The check of a target: what it finds, what it repairs, and that it changes nothing else. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fsckWorld } from '../fixtures/fsck_world.js';
import type { TestTarget } from '../fixtures/storage_target.js';

function digest(target: TestTarget): string {
  return createHash('sha256')
    .update(readFileSync(target.devices.metaPath))
    .update(target.devices.data.content)
    .digest('hex');
}

test('a sound target is clean, and nothing is written', async (t) => {
  const world = await fsckWorld(t);
  const before = digest(world.target);
  const report = await world.fsck({ checksums: true });
  assert.deepEqual(world.lines(report), []);
  assert.equal(digest(world.target), before);
  assert.deepEqual(
    { ...report, superblock: report.superblock?.label },
    {
      superblock: 'test',
      counts: {
        pages: report.counts.pages,
        inodes: 9,
        directories: 3,
        names: 8,
        xattrs: 2,
        symlinks: 1,
        inlineFiles: 1,
        windows: 3,
        blocks: 17,
        orphans: 1,
        doomed: 0,
        clients: 1,
        replies: 1,
        checksums: 8,
      },
      findings: [],
      repaired: 0,
      left: 0,
      repairable: 0,
      rounds: 1,
    },
  );
});
