/** A data device that fails requests: who is told, what is lost, and what stops the server. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_CREAT } from './file_calls.js';
import { SystemError } from './system_error.js';
import { simulate, type World } from './world.js';

const O_RDONLY = 0;
const O_RDWR = 2;
const CONTENT = Buffer.alloc(200_000, 'content');

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

/** A file that client 0 has synced. */
async function synced(world: World): Promise<void> {
  const process = world.client(0).process();
  const file = await process.open('/f', O_CREAT | O_RDWR);
  await process.pwrite(file, 0, CONTENT);
  await process.fsync(file);
  await process.close(file);
}

test('a read that the device fails is EIO; the next one has the content, and the server goes on', async () => {
  await simulate({ clients: 2 }, async (world) => {
    await synced(world);
    const process = world.client(1).process();
    const file = await process.open('/f', O_RDONLY);
    const { data } = world.disks;
    data.readErrorChance = 1;
    assert.equal(await codeOf(process.pread(file, 0, 4096)), 'EIO');
    await process.mkdir('/d');
    data.readErrorChance = 0;
    assert.deepEqual(await process.pread(file, 0, CONTENT.length), CONTENT);
    await process.close(file);
    assert.equal(world.server().server?.state, 'active');
    assert.deepEqual(evictions(world), []);
  });
});

test('a write that the device fails is told once by fsync to each descriptor; what was synced is there, and writing works again', async () => {
  await simulate({ clients: 2 }, async (world) => {
    await synced(world);
    const process = world.client(0).process();
    const files = [await process.open('/f', O_RDWR), await process.open('/f', O_RDWR)];
    const [one, two] = files;
    assert.ok(one !== undefined && two !== undefined);
    const { data } = world.disks;
    data.writeErrorChance = 1;
    await process.pwrite(one, CONTENT.length, Buffer.alloc(50_000, 'lost'));
    // Written back in the background, and dropped.
    await world.sleep(2000);
    data.writeErrorChance = 0;
    assert.ok(world.dataErrors > 0);
    for (const file of files) {
      assert.equal(await codeOf(process.fsync(file)), 'EIO');
      assert.equal(await codeOf(process.fsync(file)), 'no error');
    }
    assert.equal((await process.fstat(one)).sizeBytes, CONTENT.length);
    await process.pwrite(two, CONTENT.length, Buffer.from('again'));
    await process.fsync(two);
    await world.restart({ how: 'power' });
    const reader = world.client(1).process();
    const file = await reader.open('/f', O_RDONLY);
    assert.deepEqual(await reader.pread(file, 0, 1 << 20), Buffer.concat([CONTENT, Buffer.from('again')]));
    for (const open of files) assert.equal(await codeOf(process.close(open)), 'no error');
    assert.deepEqual(evictions(world), []);
  });
});

test('a mapped page that the device fails is told by msync and by close, to whoever has the file open', async () => {
  await simulate({ clients: 1 }, async (world) => {
    await synced(world);
    const process = world.client(0).process();
    const mapping = await process.open('/f', O_RDWR);
    const other = await process.open('/f', O_RDWR);
    const { data } = world.disks;
    await process.writeMapped(mapping, 8192, Buffer.from('mapped'));
    data.writeErrorChance = 1;
    assert.equal(await codeOf(process.msync(mapping).then(() => process.fsync(mapping))), 'EIO');
    data.writeErrorChance = 0;
    assert.equal(await codeOf(process.close(other)), 'EIO');
    assert.equal(await codeOf(process.close(mapping)), 'no error');
  });
});

for (let step = 0; step < 12; step++) {
  test(`a flush that the device fails stops the server for good (${step}): nothing is lost that was answered`, async () => {
    await simulate({ clients: 2, seed: step }, async (world) => {
      await synced(world);
      const process = world.client(0).process();
      const file = await process.open('/f', O_RDWR);
      const { data } = world.disks;
      await process.pwrite(file, 0, Buffer.alloc(150_000, 'new'));
      await world.sleep(step * 100);
      data.flushErrorChance = 1;
      await process.pwrite(file, 150_000, Buffer.alloc(50_000, 'newer'));
      await process.mkdir('/d');
      const syncing = process.fsync(file);
      await world.until(() => world.server().program === undefined);
      assert.match(
        world.scheduler.trace.last(50, /stops: the target has failed: flush error/).join(),
        /server0/,
      );
      assert.equal(world.disks.meta.superblock().clean, false);
      data.flushErrorChance = 0;
      await world.server().start();
      await syncing;
      // What is on the devices now, for nobody has anything left to replay.
      await world.restart({ how: 'power' });
      const reader = world.client(1).process();
      const seen = await reader.open('/f', O_RDONLY);
      const expected = Buffer.concat([Buffer.alloc(150_000, 'new'), Buffer.alloc(50_000, 'newer')]);
      assert.ok((await reader.pread(seen, 0, 1 << 20)).equals(expected));
      assert.deepEqual(await reader.readdir('/'), ['d', 'f']);
      assert.deepEqual(evictions(world), []);
    });
  });
}

test('a device that fails everything for longer than the heartbeat holds: the server answers nothing meanwhile, and goes on', async () => {
  await simulate({ clients: 2, servers: 2 }, async (world) => {
    await synced(world);
    const process = world.client(0).process();
    const { data } = world.disks;
    const { program } = world.server();
    data.readErrorChance = 1;
    data.writeErrorChance = 1;
    await world.sleep(6000);
    let isAnswered = false;
    const made = process.mkdir('/d').then(() => {
      isAnswered = true;
    });
    await world.sleep(14_000);
    // Who has the target now it cannot know.
    assert.equal(isAnswered, false);
    data.readErrorChance = 0;
    data.writeErrorChance = 0;
    await made;
    assert.equal(world.server().program, program);
    const reader = world.client(1).process();
    const file = await reader.open('/f', O_RDONLY);
    assert.deepEqual(await reader.pread(file, 0, 1 << 20), CONTENT);
    assert.deepEqual(await reader.readdir('/'), ['d', 'f']);
    assert.deepEqual(evictions(world), []);
  });
});
