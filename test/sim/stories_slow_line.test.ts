/** Lines that are slow and long: work on them is slow, and nobody is taken for dead. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_CREAT } from './file_calls.js';
import { simulate, type World } from './world.js';

const O_RDWR = 2;
const PIECE = 64 << 10;
const WAY_MS = 150;

function bytesASecond(kilobits: number): number {
  return (kilobits * 1000) / 8;
}

/** Connections that were given up, clients that were evicted. */
function losses(world: World): string[] {
  return world.scheduler.trace.last(10_000, /evicts|does not answer|was silent/);
}

async function store(world: World, client: number, path: string, bytes: number): Promise<void> {
  const process = world.client(client).process();
  const file = await process.open(path, O_CREAT | O_RDWR);
  for (let at = 0; at < bytes; at += PIECE) await process.pwrite(file, at, Buffer.alloc(PIECE, 'z'));
  await process.fsync(file);
  await process.close(file);
}

for (const [kilobits, bytes] of [
  [256, 1 << 20],
  [1000, 4 << 20],
  [10_000, 8 << 20],
] as const) {
  test(`${kilobits} kbit/s, 150 ms each way: a write and fsync take what the line takes, on one connection`, async () => {
    await simulate({ clients: 1 }, async (world) => {
      world.network.baseDelayMs = WAY_MS;
      world.network.slow(world.client(0).machine, bytesASecond(kilobits));
      const connections = [...world.network.connections];
      const beganMs = world.scheduler.nowMs;
      await store(world, 0, '/f', bytes);
      const tookMs = world.scheduler.nowMs - beganMs;
      const leastMs = (bytes / bytesASecond(kilobits)) * 1000;
      assert.ok(tookMs < leastMs * 1.8 + 5000, `${tookMs} ms, and the line needs ${leastMs} ms`);
      const kept = connections.filter((one) => world.network.connections.has(one));
      assert.deepEqual([losses(world), kept.length], [[], connections.length]);
    });
  });
}

test('four clients share 1 Mbit/s: each gets through, and none is given up', async () => {
  await simulate({ clients: 4 }, async (world) => {
    world.network.baseDelayMs = WAY_MS;
    world.network.slow(world.server().machine, bytesASecond(1000));
    await Promise.all([0, 1, 2, 3].map((n) => store(world, n, `/f${n}`, 1 << 20)));
    assert.deepEqual(losses(world), []);
  });
});

test('who wants a file that is being flushed over a slow line gets it when the flush is through', async () => {
  await simulate({ clients: 2 }, async (world) => {
    world.network.baseDelayMs = WAY_MS;
    const writer = world.client(0).process();
    const file = await writer.open('/f', O_CREAT | O_RDWR);
    world.network.slow(world.client(0).machine, bytesASecond(256));
    for (let at = 0; at < 1 << 20; at += PIECE) await writer.pwrite(file, at, Buffer.alloc(PIECE, 'z'));
    const reader = world.client(1).process();
    const found = await reader.open('/f', O_RDWR);
    const last = await reader.pread(found, (1 << 20) - 3, 10);
    assert.deepEqual([last.toString(), losses(world)], ['zzz', []]);
  });
});

/** A file that nobody has cached, and a process that reads it from beginning to end, 128 KiB at a time. */
async function readerOf(world: World, bytes: number): Promise<{ readonly done: Promise<number> }> {
  await store(world, 1, '/big', bytes);
  world.network.baseDelayMs = WAY_MS;
  world.network.slow(world.client(0).machine, bytesASecond(256));
  const reader = world.client(0).process();
  const file = await reader.open('/big', 0);
  const read = async (): Promise<number> => {
    let at = 0;
    for (let got = 1; got > 0; at += got) got = (await reader.pread(file, at, 128 << 10)).length;
    return at;
  };
  return { done: read() };
}

test('while a file is read over a slow line, what else its client asks for is answered within seconds', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const bytes = 2 << 20;
    const beganMs = world.scheduler.nowMs;
    const { done } = await readerOf(world, bytes);
    const other = world.client(0).process();
    const waits: number[] = [];
    for (let asked = 0; asked < 5; asked += 1) {
      await world.sleep(5000);
      const askedMs = world.scheduler.nowMs;
      await other.mkdir(`/d${asked}`);
      waits.push(world.scheduler.nowMs - askedMs);
    }
    assert.equal(await done, bytes);
    const leastMs = (bytes / bytesASecond(256)) * 1000;
    const tookMs = world.scheduler.nowMs - beganMs;
    assert.ok(tookMs < leastMs * 1.8 + 5000, `${tookMs} ms, and the line needs ${leastMs} ms`);
    assert.ok(Math.max(...waits) < 6000, `${waits} ms`);
    assert.deepEqual(losses(world), []);
  });
});

test('who writes a file that another client reads over a slow line waits for the reads under way, not for readahead', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const { done } = await readerOf(world, 2 << 20);
    await world.sleep(10_000);
    const writer = world.client(1).process();
    const file = await writer.open('/big', O_RDWR);
    const askedMs = world.scheduler.nowMs;
    await writer.pwrite(file, 0, Buffer.from('new'));
    const waitedMs = world.scheduler.nowMs - askedMs;
    await done;
    assert.ok(waitedMs < 15_000, `${waitedMs} ms`);
    assert.deepEqual(losses(world), []);
  });
});

test('a reader whose one read takes longer than a lock may is not given up while it goes on', async () => {
  await simulate({ clients: 2 }, async (world) => {
    const bytes = 1 << 20;
    await store(world, 1, '/big', bytes);
    world.network.baseDelayMs = WAY_MS;
    world.network.slow(world.client(0).machine, bytesASecond(256));
    const reader = world.client(0).process();
    const file = await reader.open('/big', O_RDWR);
    const read = reader.pread(file, 0, bytes);
    await world.sleep(2000);
    const writer = world.client(1).process();
    const again = await writer.open('/big', O_RDWR);
    await writer.pwrite(again, 0, Buffer.from('new'));
    assert.deepEqual([(await read).length, losses(world)], [bytes, []]);
  });
});

test('a line that stands still for three seconds in the middle of a write costs no connection', async () => {
  await simulate({ clients: 1 }, async (world) => {
    world.network.baseDelayMs = WAY_MS;
    const [client, server] = [world.client(0).machine, world.server().machine];
    world.network.slow(client, bytesASecond(1000));
    const stored = store(world, 0, '/f', 1 << 20);
    for (let stall = 0; stall < 3; stall += 1) {
      await world.sleep(2000);
      world.network.block(client, server);
      await world.sleep(1000);
      world.network.unblock(client, server);
    }
    await stored;
    assert.deepEqual(losses(world), []);
  });
});

test('a connection whose other half is gone is given up although bytes wait on it', async () => {
  await simulate({ clients: 1 }, async (world) => {
    const process = world.client(0).process();
    const file = await process.open('/f', O_CREAT | O_RDWR);
    const [client, server] = [world.client(0).machine, world.server().machine];
    world.network.block(client, server);
    const connections = [...world.network.connections];
    await process.pwrite(file, 0, Buffer.alloc(PIECE, 'z'));
    const flushed = process.fsync(file);
    await world.sleep(10_000);
    const kept = connections.filter(
      (one) => one.program.machine === client && world.network.connections.has(one),
    );
    world.network.heal();
    await flushed;
    assert.equal(kept.length, 0);
  });
});
