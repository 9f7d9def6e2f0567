/** What the simulator found: each as it was found, made small, so that it stays mended. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Appends, AppendWorker, judgeAppends } from './shared_workers.js';
import { makeImage, simulate } from './world.js';

// A GETATTR that was answered while the last data lock left made the size known again; the next lock found it known, and
// the append went where the end had been before the other client's.
test('appends of two clients never go over each other', async () => {
  const image = await makeImage();
  for (let seed = 1; seed <= 12; seed++) {
    await simulate({ seed, clients: 2, image }, async (world) => {
      const appends = new Appends();
      const workers = [0, 1].map(
        (index) => new AppendWorker(world, world.client(index), `w${index}`, appends, 100),
      );
      await Promise.all(workers.map((worker) => worker.run()));
      const reader = world.client(0).process();
      const file = await reader.open('/appends', 0);
      assert.equal(judgeAppends(await reader.pread(file, 0, 1 << 20), appends), undefined);
    });
  }
});
