/** Crashes with operations that were answered and not committed: "hold" is a server that answers and commits nothing. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_CREAT } from './file_calls.js';
import { simulate, type World } from './world.js';

const O_RDONLY = 0;
const O_RDWR = 2;
/** After so long without a change everything is committed. */
const COMMITTED_MS = 200;

function evictions(world: World): string[] {
  return world.scheduler.trace.last(1000, /evicts/);
}

test('220 files that were made and not committed are there after a crash', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const maker = world.client(0).process();
    const names = Array.from({ length: 220 }, (_, index) => `f${String(index).padStart(3, '0')}`);
    world.server().hold();
    for (const name of names) await maker.close(await maker.open(`/${name}`, O_CREAT | O_RDWR));
    await world.restart();
    assert.deepEqual(await world.client(1).process().readdir('/'), names);
    assert.deepEqual(await maker.readdir('/'), names);
    assert.deepEqual(evictions(world), []);
  });
});

test('a directory and what was made in it are there after a crash', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const maker = world.client(0).process();
    world.server().hold();
    await maker.mkdir('/d');
    const file = await maker.open('/d/f', O_CREAT | O_RDWR);
    await maker.pwrite(file, 0, Buffer.from('content'));
    await maker.close(file);
    await world.restart();
    const reader = world.client(1).process();
    const found = await reader.open('/d/f', O_RDONLY);
    assert.equal((await reader.pread(found, 0, 100)).toString(), 'content');
  });
});

test('what was renamed and then removed is under neither name after a crash', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const process = world.client(0).process();
    await process.close(await process.open('/a', O_CREAT | O_RDWR));
    world.server().hold();
    await process.rename('/a', '/b');
    await process.unlink('/b');
    await world.restart();
    assert.deepEqual(await world.client(1).process().readdir('/'), []);
  });
});

test('an unlinked open file goes on through a crash, and its space is free when it is closed', async () => {
  await simulate({}, async (world) => {
    const process = world.client().process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    await process.pwrite(file, 0, Buffer.alloc(1 << 20, 7));
    await process.fsync(file);
    world.server().hold();
    await process.unlink('/f');
    await world.restart();
    assert.equal((await process.pread(file, (1 << 20) - 1, 10)).toString('hex'), '07');
    await process.pwrite(file, 5, Buffer.from('written'));
    assert.equal((await process.pread(file, 5, 7)).toString(), 'written');
    await process.close(file);
    await world.until(() => world.server().server?.status().orphans === 0);
    await world.sleep(200);
    const status = world.server().server?.status();
    assert.equal(status?.blocksFree, status?.blocks);
  });
});

test('a handle that was open before chmod 0 writes after a crash', async () => {
  await simulate({}, async (world) => {
    const process = world.client().process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    await process.chmod('/f', 0);
    world.server().hold();
    await world.restart();
    assert.equal(await process.pwrite(file, 0, Buffer.from('kept')), 4);
    assert.equal((await process.pread(file, 0, 4)).toString(), 'kept');
  });
});

test('one client never comes back: what the other made is there, and the window ends by its limit', async () => {
  const settings = { recoverySoftMs: 3000, recoveryHardMs: 9000 };
  await simulate({ clients: 2, settings }, async (world) => {
    const first = world.client(0).process();
    const second = world.client(1).process();
    await first.mkdir('/first');
    await first.mkdir('/second');
    await world.sleep(COMMITTED_MS);
    world.server().hold();
    for (let index = 0; index < 25; index++) {
      await first.close(await first.open(`/first/${index}`, O_CREAT | O_RDWR));
    }
    await second.close(await second.open('/second/f', O_CREAT | O_RDWR));
    world.client(1).crash('power');
    const beganMs = world.scheduler.nowMs;
    await world.restart();
    assert.equal((await first.readdir('/first')).length, 25);
    const tookMs = world.scheduler.nowMs - beganMs;
    assert.ok(tookMs > 2000 && tookMs < 10_000, `${tookMs} ms`);
    assert.equal(evictions(world).length, 1);
  });
});

test('the loss of one client breaks nobody else, though they changed one directory', async () => {
  const settings = { recoverySoftMs: 3000, recoveryHardMs: 9000 };
  await simulate({ clients: 2, settings }, async (world) => {
    const survivor = world.client(0).process();
    const lost = world.client(1).process();
    await survivor.mkdir('/d');
    await survivor.close(await survivor.open('/d/f', O_CREAT | O_RDWR));
    await lost.chmod('/d', 0o700);
    await lost.close(await lost.open('/d/g', O_CREAT | O_RDWR));
    await survivor.unlink('/d/f');
    world.client(1).crash('power');
    await world.restart();
    assert.deepEqual(await survivor.readdir('/d'), ['g']);
    assert.equal((await survivor.stat('/d')).mode & 0o777, 0o700);
    assert.deepEqual(evictions(world).length, 1);
  });
});

test('a flock that is held and one that is waited for go on through a crash', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const holder = world.client(0).process();
    const waiter = world.client(1).process();
    const held = await holder.open('/f', O_CREAT | O_RDWR);
    const wanted = await waiter.open('/f', O_RDWR);
    await holder.flock(held, 'exclusive');
    let isGranted = false;
    const granted = waiter.flock(wanted, 'exclusive').then(() => {
      isGranted = true;
    });
    await world.sleep(20);
    world.server().hold();
    await world.restart();
    await world.sleep(3000);
    assert.equal(isGranted, false);
    await holder.flock(held, 'unlock');
    await granted;
  });
});

test('a page that a mapping dirtied before a crash is written after it', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const process = world.client(0).process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    await process.pwrite(file, 0, Buffer.alloc(8192, 1));
    await process.fsync(file);
    world.server().hold();
    await process.writeMapped(file, 4096, Buffer.from('mapped'));
    await world.restart();
    await process.msync(file);
    const reader = world.client(1).process();
    const found = await reader.open('/f', O_RDONLY);
    assert.equal((await reader.pread(found, 4096, 6)).toString(), 'mapped');
  });
});

for (const afterMs of [65, 66, 67, 68, 70, 75, 80, 100]) {
  test(`crash again ${afterMs} ms after the start, in the middle of recovery`, async () => {
    await simulate({ clients: 3, seed: afterMs }, async (world) => {
      const processes = world.clients.map((client) => client.process());
      for (const number of processes.keys()) await processes[0]?.mkdir(`/d${number}`);
      // Each in a directory of its own: what others changed there would have to be committed first.
      await world.sleep(COMMITTED_MS);
      world.server().hold();
      await Promise.all(
        processes.map(async (process, number) => {
          for (let index = 0; index < 20; index++) {
            const path = `/d${number}/f${index}`;
            const file = await process.open(path, O_CREAT | O_RDWR);
            await process.pwrite(file, 0, Buffer.from(`content ${index}`));
            if (index % 2 === 0) await process.close(file);
            if (index % 5 === 0) await process.unlink(path);
          }
        }),
      );
      world.server().crash();
      await world.sleep(50);
      void world.server().start();
      await world.sleep(afterMs);
      await world.restart({ afterMs: 50 });
      for (const number of processes.keys()) {
        assert.equal((await processes[0]?.readdir(`/d${number}`))?.length, 16);
      }
      assert.deepEqual(evictions(world), []);
    });
  });
}

test('a client that dies while it replays is waited for no longer than the limit', async () => {
  const settings = { recoverySoftMs: 3000, recoveryHardMs: 6000 };
  await simulate({ clients: 2, settings }, async (world) => {
    const survivor = world.client(0).process();
    const dying = world.client(1).process();
    await survivor.mkdir('/d');
    await survivor.mkdir('/e');
    await world.sleep(COMMITTED_MS);
    world.server().hold();
    await survivor.mkdir('/e/survivor');
    for (let index = 0; index < 50; index++) {
      await dying.close(await dying.open(`/d/${index}`, O_CREAT | O_RDWR));
    }
    world.server().crash();
    world.network.clog(world.client(1).machine, world.server().machine, 30);
    await world.sleep(50);
    void world.server().start();
    await world.until(() => (world.server().server?.recovery?.status().replayed ?? 0) > 1);
    world.client(1).crash('power');
    assert.deepEqual(await survivor.readdir('/e'), ['survivor']);
    assert.equal(evictions(world).length, 1);
  });
});

test('a slow client is waited for while it makes progress', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const quick = world.client(0).process();
    const slow = world.client(1).process();
    world.server().hold();
    for (let index = 0; index < 30; index++) {
      await slow.close(await slow.open(`/f${index}`, O_CREAT | O_RDWR));
    }
    world.server().crash();
    world.network.clog(world.client(1).machine, world.server().machine, 2000);
    await world.sleep(50);
    await world.server().start();
    assert.equal((await quick.readdir('/')).length, 30);
    assert.deepEqual(evictions(world), []);
  });
});
