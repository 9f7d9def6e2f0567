/** What every BlockDevice keeps to: the one in memory and the real one on a loop device. */

import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { openBlockDevice, resolveDevice } from '../../src/runtime/node_block.js';
import type { BlockDevice } from '../../src/runtime/ports.js';
import { makeDevices, makeFolder } from '../fixtures/devices.js';
import { MemoryDevice } from '../fixtures/memory_device.js';

const MIB = 1 << 20;
const SIZE = 8 * MIB;

async function loopDevice(t: TestContext): Promise<BlockDevice> {
  const folder = makeFolder();
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const resolved = await resolveDevice(makeDevices(folder, '', SIZE, SIZE).data);
  t.after(() => resolved.release());
  return await openBlockDevice(resolved.path, { exclusive: true });
}

const NO_ROOT = process.getuid?.() === 0 ? false : 'needs root';

const SUITES: readonly [
  name: string,
  make: (t: TestContext) => Promise<BlockDevice>,
  skip: string | false,
][] = [
  ['in memory', async () => new MemoryDevice(SIZE), false],
  ['a loop device', loopDevice, NO_ROOT],
];

for (const [name, make, skip] of SUITES) {
  test(`block device, ${name}`, { skip }, async (t) => {
    const device = await make(t);
    t.after(() => device.close());
    const bytes = Buffer.from(Array.from({ length: 3 * 4096 }, (_, at) => (at * 7) & 0xff));

    await t.test('has the size it was made with', () => assert.equal(device.sizeBytes, SIZE));

    await t.test('chunks of any length lie back to back', async () => {
      const chunks = [
        bytes.subarray(0, 1),
        bytes.subarray(1, 4097),
        bytes.subarray(4097, 4097),
        bytes.subarray(4097),
      ];
      await device.write(MIB, chunks);
      const read = Buffer.alloc(bytes.length + 2);
      await device.read(MIB - 1, read);
      assert.deepEqual(read, Buffer.concat([Buffer.alloc(1), bytes, Buffer.alloc(1)]));
    });

    await t.test('many writes at once all arrive', async () => {
      await Promise.all(
        Array.from({ length: 64 }, (_, at) =>
          device.write(2 * MIB + at * 4096, [Buffer.alloc(4096, at + 1)]),
        ),
      );
      const read = Buffer.alloc(64 * 4096);
      await device.read(2 * MIB, read);
      assert.ok(read.every((byte, at) => byte === Math.floor(at / 4096) + 1));
    });

    await t.test('4 MiB in one call, of many chunks', async () => {
      const chunks = Array.from({ length: 2048 }, (_, at) => Buffer.alloc(2048, at & 0xff));
      await device.write(3 * MIB, chunks);
      const read = Buffer.alloc(4 * MIB);
      await device.read(3 * MIB, read);
      assert.ok(read.equals(Buffer.concat(chunks)));
    });

    await t.test('a read past the cache sees what was written a moment before and not flushed', async () => {
      const written = Buffer.alloc(256 << 10, 0x5a);
      await device.write(4 * MIB, [written]);
      const memory = device.memory(256 << 10);
      const unaligned = Buffer.alloc((256 << 10) + 1).subarray(1);
      await Promise.all([
        device.readOnce(4 * MIB, memory),
        device.readOnce(4 * MIB + 7, unaligned.subarray(7)),
      ]);
      assert.deepEqual(
        [memory.equals(written), unaligned.subarray(7).equals(written.subarray(7))],
        [true, true],
      );
      // Part of it in the cache only, the rest on the device only.
      await device.flush();
      await device.write(4 * MIB + 4096, [Buffer.alloc(4096, 1)]);
      await device.readOnce(4 * MIB, memory);
      assert.deepEqual([memory[0], memory[4096], memory[8191], memory[8192]], [0x5a, 1, 1, 0x5a]);
    });

    await t.test('the end is the end: EIO for a read or write beyond it', async () => {
      await device.write(SIZE - 4096, [Buffer.alloc(4096, 9)]);
      await assert.rejects(device.read(SIZE - 10, Buffer.alloc(20)), { code: 'EIO' });
      await assert.rejects(device.write(SIZE - 10, [Buffer.alloc(20)]), { code: 'EIO' });
    });

    await t.test('direct calls and ordinary ones see what the other wrote', async () => {
      const block = Buffer.alloc(4096, 0x5a);
      await device.writeDirect(512 << 10, block);
      const read = Buffer.alloc(4096);
      await device.read(512 << 10, read);
      assert.ok(read.equals(block));
      await device.write((512 << 10) + 100, [Buffer.from('ordinary')]);
      const direct = Buffer.alloc(8192, 1);
      await device.readDirect(512 << 10, direct);
      block.write('ordinary', 100);
      assert.ok(direct.equals(Buffer.concat([block, Buffer.alloc(4096)])));
    });

    await t.test('direct calls take whole blocks within the device', async () => {
      await assert.rejects(device.readDirect(512, Buffer.alloc(4096)), { code: 'EINVAL' });
      await assert.rejects(device.readDirect(0, Buffer.alloc(512)), { code: 'EINVAL' });
      await assert.rejects(device.writeDirect(4096, Buffer.alloc(100)), { code: 'EINVAL' });
      await assert.rejects(device.readDirect(SIZE, Buffer.alloc(4096)), { code: 'EIO' });
      await assert.rejects(device.writeDirect(SIZE, Buffer.alloc(4096)), { code: 'EIO' });
    });

    await t.test('flush and discard are done', async () => {
      await device.flush();
      await device.discard(2 * MIB, MIB);
      const read = Buffer.alloc(4096);
      await device.read(SIZE - 4096, read);
      // What was refused for its end may have been written up to the end.
      assert.ok(read.subarray(0, 4086).every((byte) => byte === 9));
    });
  });
}

test('close waits for the calls under way', { skip: NO_ROOT }, async (t) => {
  const device = await loopDevice(t);
  let ended = 0;
  const calls = Array.from({ length: 8 }, (_, at) => [
    device.write(at * MIB, [Buffer.alloc(MIB, at)]),
    device.readDirect(at * MIB, Buffer.alloc(4096)),
    device.readOnce(at * MIB, device.memory(4096)),
  ])
    .flat()
    .map((call) => call.then(() => (ended += 1)));
  await device.close();
  assert.equal(ended, calls.length);
  await Promise.all(calls);
});
