/** Controlled shutdowns with something in the way. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compareTree } from './compare_tree.js';
import { O_CREAT } from './file_calls.js';
import { Appends, AppendWorker, judgeAppends } from './shared_workers.js';
import { TreeWorker } from './tree_worker.js';
import { simulate, type World } from './world.js';

const O_RDWR = 2;

function evictions(world: World): string[] {
  return world.scheduler.trace.last(1000, /evicts/);
}

test('a shutdown that is taken back while a client drains leaves everybody as they were', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const process = world.client(0).process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    await process.pwrite(file, 0, Buffer.alloc(4 << 20, 1));
    world.network.clog(world.client(0).machine, world.server().machine, 50);
    const { server } = world.server();
    const result = server?.shutdown();
    await world.sleep(5);
    const parked = world.client(1).process().mkdir('/d');
    await world.sleep(10);
    assert.equal(server?.cancelShutdown(), true);
    assert.equal(await result, 'cancelled');
    world.network.heal();
    await parked;
    assert.equal((await process.pread(file, 0, 1)).length, 1);
    assert.deepEqual(evictions(world), []);
  });
});

test('who asks for a second shutdown joins the first', async () => {
  await simulate({}, async (world) => {
    const { server } = world.server();
    assert.deepEqual(await Promise.all([server?.shutdown(), server?.shutdown()]), ['clean', 'clean']);
  });
});

test('a client that connects during a shutdown waits, and is let in by the next server', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const busy = world.client(0).process();
    await world.client(1).unmount();
    const file = await busy.open('/f', O_CREAT | O_RDWR);
    await busy.pwrite(file, 0, Buffer.alloc(4 << 20, 1));
    world.network.clog(world.client(0).machine, world.server().machine, 50);
    const stopping = world.server().server?.shutdown();
    await world.sleep(5);
    const mounting = world.client(1).mount();
    await stopping;
    world.network.heal();
    await world.until(() => world.server().program === undefined);
    await world.server().start({ version: '2.0.0' });
    await mounting;
    await world.client(1).process().stat('/f');
    assert.deepEqual(evictions(world), []);
  });
});

test('a shutdown during recovery gives the recovery up, and its clients recover with the next server', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const process = world.client(0).process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    world.server().hold();
    await process.pwrite(file, 0, Buffer.from('content'));
    await process.setxattr('/f', 'user.x', 'held');
    world.network.block(world.client(1).machine, world.server().machine);
    world.server().crash();
    await world.sleep(50);
    const server = await world.server().start();
    await world.sleep(300);
    assert.equal(server.state, 'recovering');
    await server.shutdown();
    await world.until(() => world.server().program === undefined);
    world.network.heal();
    await world.server().start();
    assert.equal(await process.getxattr('/f', 'user.x'), 'held');
    assert.equal((await process.pread(file, 0, 10)).toString(), 'content');
    assert.deepEqual(evictions(world), []);
  });
});

for (let step = 0; step < 24; step++) {
  const afterMs = step / 4;
  test(`a server that is killed ${afterMs} ms after a shutdown began loses nothing`, async () => {
    await simulate({ clients: 2, seed: 100 + step }, async (world) => {
      const trees = world.clients.map((client, index) => new TreeWorker(world, client, `t${index}`, 30));
      const working = trees.map((worker) => worker.run());
      await world.sleep(40);
      void world.server().server?.shutdown();
      await world.sleep(afterMs);
      await world.restart({ afterMs: 20 });
      await Promise.all(working);
      for (const { state } of trees) assert.equal(state, 'done');
      assert.deepEqual(evictions(world), []);
    });
  });
}

for (let step = 0; step < 12; step++) {
  const afterMs = step / 2;
  test(`a client that is killed ${afterMs} ms after a shutdown began holds nobody up`, async () => {
    await simulate({ clients: 2, seed: 200 + step }, async (world) => {
      const dying = new TreeWorker(world, world.client(0), 'dying', 200);
      const tree = new TreeWorker(world, world.client(1), 'tree', 30);
      void dying.run();
      const working = tree.run();
      await world.sleep(40);
      const { server } = world.server();
      const result = server?.shutdown({ drainTimeoutMs: 2000 });
      await world.sleep(afterMs);
      world.client(0).crash();
      assert.equal(await result, 'clean');
      await world.until(() => world.server().program === undefined);
      await world.server().start({ version: '2.0.0' });
      await working;
      assert.equal(tree.state, 'done');
    });
  });
}

test('the server is stopped and started 20 times in two minutes, cleanly and killed, under load', async () => {
  await simulate({ clients: 3 }, async (world) => {
    const appends = new Appends();
    const trees = world.clients.map((client, index) => new TreeWorker(world, client, `t${index}`, 100_000));
    const appenders = world.clients.map(
      (client, index) => new AppendWorker(world, client, `a${index}`, appends, 100_000),
    );
    const working = [...trees, ...appenders].map((worker) => worker.run());
    for (let round = 0; round < 20; round++) {
      await world.sleep(world.rng.between(1000, 5000));
      if (world.rng.chance(0.5)) await world.restart({ afterMs: world.rng.below(1000) });
      else await world.upgrade(world.server().version);
    }
    for (const worker of [...trees, ...appenders]) worker.stop();
    await Promise.all(working);
    assert.deepEqual(evictions(world), []);
    const reader = world.client(0).process();
    for (const tree of trees) {
      await compareTree(reader, tree.base, tree.model, (what) => world.violated(what));
    }
    const file = await reader.open('/appends', 0);
    assert.equal(judgeAppends(await reader.pread(file, 0, 16 << 20), appends), undefined);
  });
});
