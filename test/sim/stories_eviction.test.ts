/** Clients that are thrown out, alone: what they are told, and that everybody else goes on. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_CREAT } from './file_calls.js';
import { SystemError } from './system_error.js';
import { simulate, type World } from './world.js';

const O_RDWR = 2;

function evictions(world: World): string[] {
  return world.scheduler.trace.last(1000, /evicts/);
}

async function codeOf(run: Promise<unknown>): Promise<string> {
  try {
    await run;
    return 'no error';
  } catch (error) {
    if (error instanceof SystemError) return error.code;
    throw error;
  }
}

test('a client that was cut off for too long is evicted, told of what it lost, and usable without a remount', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const process = world.client(0).process();
    const other = world.client(1).process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    await process.pwrite(file, 0, Buffer.from('synced'));
    await process.fsync(file);
    const [server, client] = [world.server().machine, world.client(0).machine];
    await process.pwrite(file, 0, Buffer.from('dirty!'));
    world.network.block(server, client);
    world.network.block(client, server);
    await world.sleep(120_000);
    assert.equal(evictions(world).length, 1);
    const found = await other.open('/f', O_RDWR);
    assert.match((await other.pread(found, 0, 10)).toString(), /synced|dirty!/);
    world.network.heal();
    assert.equal(await codeOf(process.fsync(file)), 'EIO');
    assert.equal(await codeOf(process.close(file)), 'EIO');
    const again = await process.open('/f', O_RDWR);
    assert.match((await process.pread(again, 0, 10)).toString(), /synced|dirty!/);
    await process.pwrite(again, 0, Buffer.from('again!'));
    await process.close(again);
    assert.equal((await other.pread(found, 0, 10)).toString(), 'again!');
  });
});

test('a client whose cancels are lost is evicted alone, the other goes on', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const deaf = world.client(0).process();
    const other = world.client(1).process();
    await deaf.mkdir('/d');
    const file = await deaf.open('/d/f', O_CREAT | O_RDWR);
    await deaf.pwrite(file, 0, Buffer.from('held'));
    world.network.block(world.client(0).machine, world.server().machine);
    const beganMs = world.scheduler.nowMs;
    await other.close(await other.open('/d/g', O_CREAT | O_RDWR));
    const tookMs = world.scheduler.nowMs - beganMs;
    assert.ok(tookMs < 25_000, `${tookMs} ms`);
    assert.equal(evictions(world).length, 1);
    assert.match(evictions(world)[0] ?? '', /client0/);
  });
});

test('a BAST that is lost with its connection is said again, and nobody is evicted', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const holder = world.client(0).process();
    const other = world.client(1).process();
    const file = await holder.open('/f', O_CREAT | O_RDWR);
    await holder.pwrite(file, 0, Buffer.from('held'));
    const [server, client] = [world.server().machine, world.client(0).machine];
    world.network.block(server, client);
    const reading = (async () => {
      const found = await other.open('/f', O_RDWR);
      return (await other.pread(found, 0, 10)).toString();
    })();
    await world.sleep(100);
    world.network.breakConnections(server, client);
    world.network.heal();
    assert.equal(await reading, 'held');
    assert.deepEqual(evictions(world), []);
  });
});

test('what an evicted client had written to an unlinked file is free after its close, after a crash too', async () => {
  await simulate({ clients: 2, dataBytes: 64 << 20 }, async (world) => {
    const process = world.client(0).process();
    const used = (): number => {
      const status = world.server().server?.status();
      return (status?.blocks ?? 0) - (status?.blocksFree ?? 0);
    };
    const before = used();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    await process.unlink('/f');
    for (let index = 0; index < 40; index++) {
      await process.pwrite(file, index << 20, Buffer.alloc(1 << 20, index));
    }
    await process.fsync(file);
    assert.ok(used() - before >= 40 << 8);
    world.server().server?.evict('client0.1', 'the story wants it');
    await world.sleep(500);
    await world.restart();
    await world.until(() => world.server().server?.state === 'active');
    await world.sleep(2000);
    assert.equal(await codeOf(process.pread(file, 0, 10)), 'EIO');
    // Until the process closes its file, the kernel of its machine refers to the inode.
    await process.close(file);
    await world.sleep(2000);
    assert.equal(used(), before);
  });
});

test('a forced start of another version evicts everybody, and every mount is usable', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const processes = world.clients.map((client) => client.process());
    const files = await Promise.all(
      processes.map((process, index) => process.open(`/f${index}`, O_CREAT | O_RDWR)),
    );
    world.server().crash();
    await assert.rejects(world.server().start({ version: '2.0.0' }), /1\.0\.0.*clean mark.*2\.0\.0/s);
    await world.server().start({ version: '2.0.0', forceStart: true });
    await world.until(() => world.clients.every((client) => client.evictions.length > 0));
    for (const [index, process] of processes.entries()) {
      const file = files[index];
      assert.ok(file !== undefined);
      assert.equal(await codeOf(process.pread(file, 0, 1)), 'EIO');
      await process.mkdir(`/d${index}`);
    }
  });
});

// The records of the clients went in a transaction behind the one that made the new version the serving one.
test('a forced start that is killed at once has evicted everybody all the same: nothing of another version is replayed', async () => {
  for (let step = 0; step < 24; step++) {
    await simulate({ clients: 1, seed: step }, async (world) => {
      const process = world.client().process();
      const [server, client] = [world.server().machine, world.client().machine];
      await process.mkdir('/durable');
      await world.sleep(200);
      world.server().hold();
      await process.mkdir('/not durable');
      world.network.block(server, client);
      world.network.block(client, server);
      world.server().crash();
      const { meta } = world.disks;
      const watched = meta.onCommit;
      meta.onCommit = (program, get) => {
        watched(program, get);
        meta.onCommit = watched;
        world.scheduler.after(step / 2, () => world.server().crash());
      };
      void world.server().start({ version: '2.0.0', forceStart: true });
      await world.until(() => world.server().program === undefined);
      assert.equal(meta.superblock().softwareVersion, '2.0.0');
      await world.server().start();
      world.network.heal();
      assert.deepEqual(await process.readdir('/'), ['durable']);
      await world.until(() => world.client().evictions.length > 0);
      await process.mkdir('/usable');
    });
  }
});
