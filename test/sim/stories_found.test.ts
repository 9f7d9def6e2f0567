/** What the simulator found: each as it was found, made small, so that it stays mended. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_CREAT } from './file_calls.js';
import { Appends, AppendWorker, judgeAppends } from './shared_workers.js';
import { makeImage, simulate } from './world.js';

const O_RDWR = 2;

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

// The CAST was said again before the answer to the ENQUEUE, which was lost as well: it named a lock that nobody knew yet,
// and the process waited for ever, and everybody behind it.
test('a lock whose answer and whose grant were lost with one connection is granted all the same', async () => {
  await simulate({ clients: 2, limitMs: 30_000 }, async (world) => {
    const waiter = world.client(0).process();
    const holder = world.client(1).process();
    const wanted = await waiter.open('/f', O_CREAT | O_RDWR);
    const held = await holder.open('/f', O_RDWR);
    await holder.flock(held, 'exclusive');
    world.network.block(world.server().machine, world.client(0).machine);
    const granted = waiter.flock(wanted, 'exclusive');
    await world.sleep(50);
    await holder.flock(held, 'unlock');
    await world.sleep(50);
    world.network.breakConnections(world.server().machine, world.client(0).machine);
    world.network.heal();
    await granted;
  });
});

// The record of a client was committed after CONNECT was answered: a crash in between left a server that did not know it,
// and threw it out with all that its processes had begun.
test('a client that was mounted just before a crash is known after it', async () => {
  await simulate({ clients: 1 }, async (world) => {
    const client = world.client();
    await client.unmount();
    world.server().hold();
    const opened = client.mount().then(async () => {
      const process = client.process();
      return { process, file: await process.open('/f', O_CREAT | O_RDWR) };
    });
    await world.sleep(100);
    await world.restart();
    const { process, file } = await opened;
    assert.equal(await process.pwrite(file, 0, Buffer.from('kept')), 4);
    await process.close(file);
  });
});

// The LOOKUP went on when the glimpse was answered, and took a lock for a client that nobody knew any more.
test('a client that is evicted while it waits for a glimpse leaves no lock behind', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const looking = world.client(0).process();
    const writing = world.client(1).process();
    const file = await writing.open('/f', O_CREAT | O_RDWR);
    await writing.fsync(file);
    await writing.pwrite(file, 0, Buffer.from('dirty'));
    world.network.block(world.server().machine, world.client(1).machine);
    const stat = looking.stat('/f').catch(() => undefined);
    await world.sleep(20);
    world.client(0).crash('power');
    await stat;
    const { server } = world.server();
    server?.evict('client0.1', 'the story wants it');
    world.network.heal();
    await world.sleep(100);
    assert.deepEqual(server?.target?.locks.holders('inode'), [world.client(1).client.status().uuid]);
  });
});

// The answer to a lock's ENQUEUE was waited for whatever signal came: a process could not be killed while the server was away.
test('a process that asks for a lock while the server is away is killed at once, and leaves no lock behind', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const killed = world.client(0).process();
    const other = world.client(1).process();
    const file = await killed.open('/f', O_CREAT | O_RDWR);
    const found = await other.open('/f', O_RDWR);
    world.network.block(world.server().machine, world.client(0).machine);
    const asked = killed.flock(file, 'exclusive');
    await world.sleep(20);
    const beganMs = world.scheduler.nowMs;
    killed.kill();
    await assert.rejects(asked, /EINTR/);
    assert.ok(world.scheduler.nowMs - beganMs < 20, `${world.scheduler.nowMs - beganMs} ms`);
    await killed.exit();
    world.network.heal();
    await other.flock(found, 'exclusive');
  });
});

// Nobody could replay what a client had been answered and the server had not committed, once the client had left.
test('what a client did just before it was unmounted is there after a crash', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const client = world.client(0);
    await client.process().mkdir('/d');
    await world.sleep(200);
    world.server().hold();
    await client.process().mkdir('/d/e');
    const unmounted = client.unmount();
    await world.sleep(200);
    await world.restart();
    await unmounted;
    assert.deepEqual(await world.client(1).process().readdir('/d'), ['e']);
    assert.deepEqual(world.scheduler.trace.last(10, /evicts/), []);
  });
});

// While a lock was given back, pages under requests that wait were left to the kernel; but a direct read locks no page and
// brings none, and what had been read there before stayed.
test('a page that was read before another client wrote is not read again after it, whatever waits meanwhile', async () => {
  const image = await makeImage();
  for (let step = 0; step < 30; step++) {
    await simulate({ clients: 2, image, seed: step }, async (world) => {
      const here = world.client(0).process();
      const meanwhile = world.client(0).process();
      const there = world.client(1).process();
      const file = await there.open('/f', O_CREAT | O_RDWR);
      await there.pwrite(file, 0, Buffer.from('old'));
      const reader = await here.open('/f', 0);
      const direct = await meanwhile.open('/f', O_RDWR);
      assert.equal((await here.pread(reader, 0, 3)).toString(), 'old');
      const written = there.pwrite(file, 0, Buffer.from('new'));
      await world.sleep(step * 0.04);
      const waiting = meanwhile.pread(direct, 0, 3);
      await written;
      assert.equal((await here.pread(reader, 0, 3)).toString(), 'new');
      await waiting;
    });
  }
});

// The file was closed before its write-back failed: nobody was told, and who opened it next and synced it was told that all is
// well. (What a program that opens a file to sync it relies on.)
test('a loss that nobody could be told of is told by the fsync of who opens the file next', async () => {
  await simulate({ clients: 1 }, async (world) => {
    const writer = world.client().process();
    const syncer = world.client().process();
    const { data } = world.disks;
    const file = await writer.open('/f', O_CREAT | O_RDWR);
    await writer.pwrite(file, 0, Buffer.alloc(50_000, 'lost'));
    data.writeErrorChance = 1;
    await writer.close(file);
    await world.sleep(100);
    data.writeErrorChance = 0;
    const first = await syncer.open('/f', 0);
    const second = await syncer.open('/f', O_RDWR);
    await syncer.pwrite(second, 0, Buffer.from('more'));
    for (const opened of [first, second]) {
      await assert.rejects(syncer.fsync(opened), /EIO/);
      await syncer.fsync(opened);
    }
    const third = await syncer.open('/f', O_RDWR);
    await syncer.fsync(third);
    for (const opened of [first, second, third]) await syncer.close(opened);
  });
});
