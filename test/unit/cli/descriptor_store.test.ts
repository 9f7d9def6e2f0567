import assert from 'node:assert/strict';
import { closeSync, existsSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { nativeBinding } from '../../../native/binding.js';
import { passedDescriptors, storedMount } from '../../../src/cli/descriptor_store.js';
import { readSeed, type Seed, writeSeed } from '../../../src/cli/seed_memory.js';

const MOUNT = { mountpoint: '/mnt/home', device: '0:99', source: 'home@10.0.0.1:7988' };
const SLOT_BYTES = 64 << 10;

function seed(connCount: number): Seed {
  const client = { uuid: 'u', secret: 's', connCount, firstFh: 1 } as unknown as Seed['client'];
  const negotiated = { minor: 45, flagsLow: 1, flagsHigh: 2 } as unknown as Seed['negotiated'];
  return { client, negotiated };
}

function memoryOf(t: TestContext, ...seeds: readonly Seed[]): number {
  const memory = nativeBinding().memoryFile('test');
  t.after(() => closeSync(memory));
  for (const each of seeds) writeSeed(memory, { ...MOUNT, ...each });
  return memory;
}

function countIn(memory: number): number {
  return readSeed(memory).client.connCount;
}

test('the last seed counts, and of a torn one nothing', (t) => {
  const memory = memoryOf(t);
  assert.throws(() => readSeed(memory), { code: 'EPROTO', message: /no whole seed/ });
  for (let count = 1; count <= 5; count++) {
    writeSeed(memory, { ...MOUNT, ...seed(count) });
    assert.deepEqual(readSeed(memory), { version: 1, ...MOUNT, ...seed(count) });
  }
  const whole = Buffer.alloc(2 * SLOT_BYTES);
  readSync(memory, whole, 0, whole.length, 0);
  // The fifth is in the second slot. A process that dies has written some of it, and the rest is what was there before.
  const length = whole.readUInt32LE(SLOT_BYTES + 4) + 16;
  const before = memoryOf(t, seed(1), seed(2), seed(3), seed(4));
  const third = Buffer.alloc(length);
  readSync(before, third, 0, length, SLOT_BYTES);
  let torn = 0;
  for (let end = 0; end < length; end++) {
    const part = Buffer.concat([whole.subarray(SLOT_BYTES, SLOT_BYTES + end), third.subarray(end)]);
    if (part.equals(third) || part.equals(whole.subarray(SLOT_BYTES, SLOT_BYTES + length))) continue;
    torn += 1;
    writeSync(before, part, 0, part.length, SLOT_BYTES);
    assert.equal(countIn(before), 4, `torn behind ${end} bytes`);
  }
  assert.ok(torn > 0);
  // The next write goes over the torn one.
  writeSeed(before, { ...MOUNT, ...seed(6) });
  assert.equal(countIn(before), 6);
});

test('a seed of another version says so', (t) => {
  const memory = memoryOf(t, seed(1));
  const slot = Buffer.alloc(SLOT_BYTES);
  const length = readSync(memory, slot, 0, SLOT_BYTES, SLOT_BYTES);
  const text = slot.toString('utf8', 16, length).replace('"version":1', '"version":2');
  const bytes = Buffer.concat([slot.subarray(0, 16), Buffer.from(text)]);
  const [sum = 0] = nativeBinding().crc32cBlocks(bytes.subarray(4), bytes.length - 4);
  bytes.writeUInt32LE(sum, 0);
  writeSync(memory, bytes, 0, bytes.length, SLOT_BYTES);
  assert.throws(() => readSeed(memory), { code: 'EPROTO', message: /has version 2, not 1/ });
});

test('only what systemd has passed to this very process, under the name of a mount, counts', () => {
  const env = (pid: number, count: number, names: string): NodeJS.ProcessEnv => ({
    LISTEN_PID: String(pid),
    LISTEN_FDS: String(count),
    LISTEN_FDNAMES: names,
    OTHER: 'x',
  });
  const mine = env(process.pid, 2, 'stored:connection');
  assert.deepEqual([passedDescriptors(mine), mine], [[], { OTHER: 'x' }]);
  const parents = env(process.ppid, 2, 'holdfast-mount:holdfast-mount');
  assert.deepEqual([passedDescriptors(parents), parents], [[], { OTHER: 'x' }]);
  assert.deepEqual(passedDescriptors({}), []);
  assert.deepEqual(passedDescriptors(env(process.pid, 1, 'other:holdfast-mount')), []);
});

const skip = existsSync('/dev/fuse') ? false : 'there is no /dev/fuse';

test('what fits no mount is refused with the reason', { skip }, (t) => {
  const memory = memoryOf(t, seed(1));
  const fuse = openSync('/dev/fuse', 'r+');
  t.after(() => closeSync(fuse));
  const refused = (descriptors: readonly number[], why: RegExp, mountpoint = MOUNT.mountpoint): void => {
    assert.throws(() => storedMount(descriptors, mountpoint, [MOUNT.source]), { message: why });
  };
  const other = openSync('/dev/null', 'r+');
  t.after(() => closeSync(other));
  refused([memory], /kept 0 of \/dev\/fuse and 1 seeds/);
  refused([fuse], /kept 1 of \/dev\/fuse and 0 seeds/);
  refused([other, memory], /kept 0 of \/dev\/fuse/);
  refused([fuse, memory, memoryOf(t)], /and 2 seeds/);
  refused([fuse, memoryOf(t)], /no whole seed/);
  refused([fuse, memory], /a mount on \/mnt\/home, not on \/mnt\/mail/, '/mnt/mail');
  assert.throws(() => storedMount([fuse, memory], MOUNT.mountpoint, ['work@10.0.0.1:7988']), {
    message: /a mount of home@10.0.0.1:7988, not of work@10.0.0.1:7988/,
  });
  // It was never mounted.
  refused([fuse, memory], /the mount has ended/);
  assert.ok(fstatSync(fuse).isCharacterDevice(), 'nothing was closed');
});
