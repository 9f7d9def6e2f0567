/** Two servers that can reach the same devices. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_CREAT } from './file_calls.js';
import { simulate, type World } from './world.js';

const O_RDWR = 2;
const TWO = { clients: 2, servers: 2 };

function evictions(world: World): string[] {
  return world.scheduler.trace.last(1000, /evicts/);
}

test('failover to the partner and back after clean stops: the pause is short, nothing is lost', async () => {
  await simulate(TWO, async (world) => {
    const [a, b] = [world.server(0), world.server(1)];
    const process = world.client(0).process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      await process.pwrite(file, 0, Buffer.from(to.name));
      const taking = to.start({ standBy: true });
      await world.sleep(100);
      const beganMs = world.scheduler.nowMs;
      await from.server?.shutdown();
      await taking;
      assert.equal((await process.pread(file, 0, 20)).toString(), to.name);
      assert.ok(world.scheduler.nowMs - beganMs < 300, `${world.scheduler.nowMs - beganMs} ms`);
      await world.until(() => from.program === undefined);
    }
    assert.deepEqual(evictions(world), []);
  });
});

test('the active is killed: the partner has the target when the heartbeat was silent for its period', async () => {
  await simulate(TWO, async (world) => {
    const process = world.client(0).process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    world.server(0).hold();
    await process.pwrite(file, 0, Buffer.from('not committed'));
    const taking = world.server(1).start({ standBy: true });
    await world.sleep(1000);
    const beganMs = world.scheduler.nowMs;
    world.server(0).crash('power');
    await taking;
    assert.equal((await process.pread(file, 0, 20)).toString(), 'not committed');
    const tookMs = world.scheduler.nowMs - beganMs;
    assert.ok(tookMs >= 4000 && tookMs < 7000, `${tookMs} ms`);
    assert.deepEqual(evictions(world), []);
  });
});

test('both are started at once: one has the target, the other is refused', async () => {
  for (let seed = 1; seed <= 10; seed++) {
    await simulate({ ...TWO, clients: 1, seed }, async (world) => {
      await world.server(0).server?.shutdown();
      await world.until(() => world.server(0).program === undefined);
      const both = await Promise.allSettled(world.servers.map((server) => server.start()));
      assert.equal(both.filter(({ status }) => status === 'fulfilled').length, 1);
      const [refused] = both.flatMap((one) => (one.status === 'rejected' ? [String(one.reason)] : []));
      assert.match(refused ?? '', /EBUSY|in use/);
      await world.client().process().mkdir('/d');
    });
  }
});

test('an active that stood still for longer than the period stops itself without a write', async () => {
  await simulate({ ...TWO, clients: 1 }, async (world) => {
    const [a, b] = [world.server(0), world.server(1)];
    const process = world.client().process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    await process.pwrite(file, 0, Buffer.from('first'));
    const taking = b.start({ standBy: true });
    await world.sleep(100);
    const { program } = a;
    assert.ok(program !== undefined);
    program.stoppedUntilMs = world.scheduler.nowMs + 20_000;
    await taking;
    await process.pwrite(file, 0, Buffer.from('second'));
    // The checkers watch that it writes nothing more.
    await world.until(() => a.program === undefined);
    assert.ok(world.scheduler.nowMs >= 20_000);
    assert.equal((await process.pread(file, 0, 20)).toString(), 'second');
    assert.ok(b.server !== undefined);
    assert.deepEqual(evictions(world), []);
  });
});
