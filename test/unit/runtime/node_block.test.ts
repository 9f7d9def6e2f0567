import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FsError } from '../../../src/base/errno.js';
import { openBlockDevice, resolveDevice } from '../../../src/runtime/node_block.js';

const NEEDS_ROOT = process.getuid?.() === 0 ? false : 'loop devices need root';
const MIB = 1 << 20;

/** A backing file that goes away with the test. */
function backingFile(t: TestContext, sizeBytes = 8 * MIB): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-block-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'device.img');
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
}

function attachedLoops(path: string): string[] {
  return readdirSync('/sys/block').filter((name) => {
    const file = `/sys/block/${name}/loop/backing_file`;
    return existsSync(file) && readFileSync(file, 'utf8').trim() === path;
  });
}

/** The kernel detaches just after the last close has returned: waits for its event, which is the file going away. */
async function untilDetached(path: string): Promise<void> {
  while (attachedLoops(path).length > 0) await new Promise((resolve) => setImmediate(resolve));
}

async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof FsError, String(error));
    assert.ok(!error.message.includes('\n'), 'one line');
    return `${error.code}: ${error.message}`;
  }
  return 'no failure';
}

test('what is written to a regular file through its loop device is read back, across chunks', {
  skip: NEEDS_ROOT,
}, async (t) => {
  const path = backingFile(t);
  const device = await openBlockDevice(path, { exclusive: true });
  assert.equal(device.sizeBytes, 8 * MIB);
  const chunks = [Buffer.from('hold'), Buffer.alloc(0), Buffer.from('fast'), Buffer.alloc(5000, 7)];
  await device.write(12_345, chunks);
  await device.flush();
  const back = Buffer.alloc(5008);
  await device.read(12_345, back);
  assert.deepEqual(back, Buffer.concat(chunks));
  await device.discard(0, 4096);
  await device.close();
  await untilDetached(path);
  const inFile = readFileSync(path).subarray(12_345, 12_345 + 8);
  assert.equal(inFile.toString(), 'holdfast');
});

test('whole blocks are on the device when their write is done, without a flush', {
  skip: NEEDS_ROOT,
}, async (t) => {
  const path = backingFile(t);
  const device = await openBlockDevice(path, { exclusive: true });
  // Not aligned in memory, and more than goes through at once.
  const memory = Buffer.alloc(3 * MIB + 4096 + 1, 0x77).subarray(1);
  await device.write(MIB, [memory.subarray(0, 100), memory.subarray(100)]);
  const aligned = device.memory(8192).fill(0x33);
  await device.write(0, [aligned.subarray(0, 4096), aligned.subarray(4096)]);
  // The file behind the device: nothing of it is in the device's cache any more.
  const inFile = readFileSync(path);
  assert.ok(inFile.subarray(MIB, MIB + memory.length).equals(memory));
  assert.ok(inFile.subarray(0, 8192).equals(aligned));
  // What the cache held of it before is not read any more.
  const back = Buffer.alloc(8192);
  await device.read(0, back);
  assert.ok(back.equals(aligned));
  await device.write(4096, [Buffer.alloc(4096, 1)]);
  await device.read(0, back);
  assert.ok(back.equals(Buffer.concat([aligned.subarray(0, 4096), Buffer.alloc(4096, 1)])));
  await device.close();
  await untilDetached(path);
});

test('a second exclusive open is refused in one line, and works after the first is closed', {
  skip: NEEDS_ROOT,
}, async (t) => {
  const path = backingFile(t);
  const first = await openBlockDevice(path, { exclusive: true });
  assert.equal(
    await failure(openBlockDevice(path, { exclusive: true })),
    `EBUSY: ${path} is in use (mounted, or opened by another program)`,
  );
  await first.close();
  const second = await openBlockDevice(path, { exclusive: true });
  await second.close();
  await untilDetached(path);
});

test('an active server and its standby share one loop device', { skip: NEEDS_ROOT }, async (t) => {
  const path = backingFile(t);
  const active = await openBlockDevice(path, { exclusive: true });
  const standby = await resolveDevice(path);
  assert.deepEqual([standby.path, attachedLoops(path)], [active.path, [basename(active.path)]]);
  const watcher = await openBlockDevice(path, { exclusive: false, direct: true });
  await active.close();
  await watcher.close();
  assert.deepEqual(attachedLoops(path), [basename(standby.path)], 'the standby keeps it attached');
  const taken = await openBlockDevice(standby.path, { exclusive: true });
  await standby.release();
  await taken.close();
  await untilDetached(path);
});

test('many who resolve one file at once get one device', { skip: NEEDS_ROOT }, async (t) => {
  const path = backingFile(t);
  const all = await Promise.all(Array.from({ length: 8 }, () => resolveDevice(path)));
  assert.equal(new Set(all.map((one) => one.path)).size, 1);
  for (const one of all) await one.release();
  await untilDetached(path);
});

test('direct reads have any bounds and see what was flushed; direct writes are whole sectors', {
  skip: NEEDS_ROOT,
}, async (t) => {
  const path = backingFile(t);
  const device = await openBlockDevice(path, { exclusive: false });
  const direct = await openBlockDevice(path, { exclusive: false, direct: true });
  await device.write(4090, [Buffer.from('across the sector')]);
  await device.flush();
  const back = Buffer.alloc(17);
  await direct.read(4090, back);
  assert.equal(back.toString(), 'across the sector');
  await direct.write(8192, [Buffer.alloc(4096, 1)]);
  await device.dropCache();
  const block = Buffer.alloc(4096);
  await device.read(8192, block);
  assert.deepEqual(block, Buffer.alloc(4096, 1));
  assert.match(await failure(direct.write(1, [Buffer.alloc(4096)])), /^EINVAL: .*not whole sectors$/);
  await device.close();
  await direct.close();
  await untilDetached(path);
});

test('reading and writing past the end is EIO', { skip: NEEDS_ROOT }, async (t) => {
  const path = backingFile(t, MIB);
  const device = await openBlockDevice(path, { exclusive: true });
  assert.match(await failure(device.read(MIB - 10, Buffer.alloc(20))), /^EIO: read of .* is past its end$/);
  assert.match(await failure(device.write(MIB - 10, [Buffer.alloc(20)])), /^EIO: write of /);
  await device.close();
  await untilDetached(path);
});

test('what is no device is refused in one line', { skip: NEEDS_ROOT }, async (t) => {
  const path = backingFile(t);
  assert.equal(
    await failure(openBlockDevice(`${path}.no`, { exclusive: true })),
    `ENOENT: ${path}.no does not exist`,
  );
  assert.match(
    await failure(openBlockDevice(tmpdir(), { exclusive: true })),
    /^EINVAL: .* is a directory: name a /,
  );
  assert.match(
    await failure(openBlockDevice('/dev/null', { exclusive: true })),
    /^EINVAL: .* is a character device: /,
  );
});

test('a process that is killed leaves no loop device', { skip: NEEDS_ROOT }, async (t) => {
  const path = backingFile(t);
  const block = fileURLToPath(new URL('../../../src/runtime/node_block.js', import.meta.url));
  const script = `
    import { openBlockDevice, resolveDevice } from ${JSON.stringify(block)};
    const { path } = await resolveDevice(process.argv[1]);
    const device = await openBlockDevice(path, { exclusive: true });
    console.log(device.path);
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await once(child.stdout, 'data');
  assert.deepEqual(attachedLoops(path), [basename(String(line).trim())]);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await untilDetached(path);
  assert.equal(statSync(path).size, 8 * MIB);
});
