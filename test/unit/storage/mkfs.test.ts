/** What mkfs refuses and destroys, and what opening refuses: one line each, nothing changed. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync, truncateSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { ROOT_FID } from '../../../src/base/ids.js';
import { formatTarget } from '../../../src/storage/mkfs.js';
import { openTarget } from '../../../src/storage/target.js';
import { MemoryDevice } from '../../fixtures/memory_device.js';
import { createFile, MIB, TestTarget, testTarget } from '../../fixtures/storage_target.js';

function digest(target: TestTarget): string {
  return createHash('sha256')
    .update(readFileSync(target.devices.metaPath))
    .update(target.devices.data.content)
    .digest('hex');
}

function patch(path: string, offset: number, bytes: Buffer): void {
  const file = openSync(path, 'r+');
  writeSync(file, bytes, 0, bytes.length, offset);
  closeSync(file);
}

function at(path: string, offset: number, length: number): Buffer {
  const file = openSync(path, 'r');
  const bytes = Buffer.alloc(length);
  readSync(file, bytes, 0, length, offset);
  closeSync(file);
  return bytes;
}

const SIGNATURES = [
  ['an ext2, ext3 or ext4 filesystem', 1024 + 56, Buffer.from([0x53, 0xef])],
  ['an XFS filesystem', 0, Buffer.from('XFSB')],
  ['a Btrfs filesystem', 65_600, Buffer.from('_BHRfS_M')],
  ['swap space', 4086, Buffer.from('SWAPSPACE2')],
  ['an LVM physical volume', 512, Buffer.from('LABELONE')],
  ['a GPT partition table', 512, Buffer.from('EFI PART')],
  [
    'an MBR partition table',
    446,
    Buffer.concat([
      Buffer.from([0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]),
      Buffer.alloc(48),
      Buffer.from([0x55, 0xaa]),
    ]),
  ],
] as const;

test('mkfs refuses a device that holds something known, and changes nothing', async (t) => {
  for (const [name, offset, bytes] of SIGNATURES) {
    await t.test(name, async (t) => {
      const target = new TestTarget(16 * MIB, 16 * MIB);
      t.after(() => target.end());
      target.devices.data.content.set(bytes, offset);
      const before = digest(target);
      await assert.rejects(formatTarget(target.runtime, target.devices, { label: 'x', force: false }), {
        code: 'EEXIST',
        message: `memory holds ${name}: nothing was changed, --force destroys it`,
      });
      assert.equal(digest(target), before);
      const made = await formatTarget(target.runtime, target.devices, { label: 'x', force: true });
      assert.deepEqual(made.destroyed, [`memory holds ${name}`]);
    });
  }
});

test('mkfs refuses a target by name; by force it makes a new, empty one', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  createFile(store, 'old');
  await store.markClean();
  await store.close();
  const before = digest(target);
  const { targetUuid } = store.superblock;
  await assert.rejects(
    formatTarget(target.runtime, target.devices, { label: 'new', force: false }),
    (thrown) => {
      assert.ok(thrown instanceof FsError);
      assert.match(thrown.message, new RegExp(`metadata of Holdfast target test \\(${targetUuid}\\)`));
      assert.match(thrown.message, new RegExp(`data of Holdfast target ${targetUuid}`));
      assert.ok(!thrown.message.includes('\n'));
      return true;
    },
  );
  assert.equal(digest(target), before);
  const made = await formatTarget(target.runtime, target.devices, { label: 'new', force: true });
  assert.equal(made.destroyed.length, 2);
  const fresh = await target.open();
  assert.deepEqual(
    [fresh.superblock.label, fresh.dirents(ROOT_FID, 0, 10), fresh.superblock.instance],
    ['new', [], 1],
  );
});

test('mkfs names a device that is too small, and a label that is too long', async (t) => {
  const target = new TestTarget(8 * MIB, 16 * MIB);
  t.after(() => target.end());
  const make = (label: string): Promise<unknown> =>
    formatTarget(target.runtime, target.devices, { label, force: true });
  await assert.rejects(make('x'), {
    code: 'EINVAL',
    message: /the meta device .* is too small: 8388608 bytes/,
  });
  target.devices = { ...target.devices, metaSizeBytes: 16 * MIB, data: new MemoryDevice(MIB) };
  truncateSync(target.devices.metaPath, 16 * MIB);
  await assert.rejects(make('x'), { message: /the data device memory is too small: 1048576 bytes/ });
  target.devices = { ...target.devices, data: new MemoryDevice(16 * MIB) };
  await assert.rejects(make('x'.repeat(33)), { code: 'EINVAL', message: /label/ });
});

/** Opening what `damage` did fails with one line that fits, and leaves everything as it was. */
async function refuses(
  t: import('node:test').TestContext,
  damage: (target: TestTarget) => Promise<void> | void,
  expected: { readonly code: string; readonly message: RegExp },
): Promise<void> {
  const target = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 16 * MIB });
  const store = await target.open();
  createFile(store, 'f');
  await store.markClean();
  await store.close();
  await damage(target);
  const before = digest(target);
  await assert.rejects(openTarget(target.runtime, target.devices), (thrown) => {
    assert.ok(thrown instanceof FsError, String(thrown));
    assert.equal(thrown.code, expected.code, thrown.message);
    assert.match(thrown.message, expected.message);
    assert.ok(!thrown.message.includes('\n'));
    return true;
  });
  assert.equal(digest(target), before);
}

test('opening refuses what is no sound pair', async (t) => {
  const zeros = Buffer.alloc(4096);
  const noise = Buffer.alloc(8192, 0x5a);
  await t.test('a meta device of zeros', (t) =>
    refuses(t, ({ devices }) => patch(devices.metaPath, 0, Buffer.alloc(MIB)), {
      code: 'ENODEV',
      message: /not formatted/,
    }),
  );
  await t.test('noise over both first pages', (t) =>
    refuses(t, ({ devices }) => patch(devices.metaPath, 0, noise), {
      code: 'ENODEV',
      message: /not formatted/,
    }),
  );
  await t.test('noise over the first page', (t) =>
    refuses(t, ({ devices }) => patch(devices.metaPath, 0, noise.subarray(4096)), {
      code: 'EIO',
      message: /damaged/,
    }),
  );
  await t.test('zeros over the second page', (t) =>
    refuses(t, ({ devices }) => patch(devices.metaPath, 4096, zeros), { code: 'EIO', message: /damaged/ }),
  );
  await t.test('noise over all tree pages', (t) =>
    refuses(t, ({ devices }) => patch(devices.metaPath, 8192, Buffer.alloc(MIB, 0xa5)), {
      code: 'EIO',
      message: /damaged/,
    }),
  );
  await t.test('a root page number beyond the device', (t) =>
    refuses(
      t,
      ({ devices }) => {
        for (const page of [0, 4096])
          patch(devices.metaPath, page + 136, Buffer.from([0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]));
      },
      { code: 'EIO', message: /damaged/ },
    ),
  );
  // lmdb believes all of these: it runs out of space, aborts every commit or ends the process by SIGSEGV.
  const fields = [
    ['flags of the free tree', 52],
    ['depth of the free tree', 54],
    ['branch pages of the free tree', 56],
    ['leaf pages of the free tree', 64],
    ['root of the free tree', 88],
    ['flags of the tree', 100],
    ['depth of the tree', 102],
    ['leaf pages of the tree', 112],
    ['overflow pages of the tree', 120],
    ['root of the tree', 136],
    ['last page', 144],
    ['transaction', 152],
  ] as const;
  for (const [name, offset] of fields) {
    for (const page of [0, 1]) {
      await t.test(`a wrong ${name} in meta page ${page}`, (t) =>
        refuses(
          t,
          ({ devices }) => {
            const place = page * 4096 + offset;
            const width = offset === 52 || offset === 54 || offset === 100 || offset === 102 ? 2 : 8;
            const old = at(devices.metaPath, place, width);
            patch(devices.metaPath, place, Buffer.from(old.map((byte) => ~byte)));
          },
          { code: 'EIO', message: /damaged/ },
        ),
      );
    }
  }
  await t.test('a changed byte in the superblock record', (t) =>
    refuses(
      t,
      ({ devices }) => {
        const content = readFileSync(devices.metaPath);
        for (
          let found = content.indexOf('HFsuper1');
          found >= 0;
          found = content.indexOf('HFsuper1', found + 1)
        ) {
          patch(devices.metaPath, found + 50, Buffer.from([0x77]));
        }
      },
      { code: 'EIO', message: /the superblock on .* is damaged/ },
    ),
  );
  await t.test('a meta device cut short', (t) =>
    refuses(
      t,
      (target) => {
        truncateSync(target.devices.metaPath, 8 * MIB);
        target.devices = { ...target.devices, metaSizeBytes: 8 * MIB };
      },
      { code: 'EIO', message: /cut short: 8388608 bytes/ },
    ),
  );
  await t.test('a data device of zeros', (t) =>
    refuses(t, ({ devices }) => void devices.data.content.fill(0, 0, 4096), {
      code: 'ENODEV',
      message: /not a Holdfast data device/,
    }),
  );
  await t.test('a damaged data header', (t) =>
    refuses(t, ({ devices }) => void devices.data.content.fill(9, 100, 101), {
      code: 'EIO',
      message: /header .* damaged/,
    }),
  );
  await t.test('a data device cut short', (t) =>
    refuses(
      t,
      (target) => {
        const shorter = new MemoryDevice(8 * MIB);
        shorter.content.set(target.devices.data.content.subarray(0, 8 * MIB));
        target.devices = { ...target.devices, data: shorter };
      },
      { code: 'EIO', message: /the data device .* cut short/ },
    ),
  );
  await t.test('the data device of another target', async (t) => {
    const other = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 16 * MIB });
    other.runtime.rng.uuid();
    await formatTarget(other.runtime, other.devices, { label: 'other', force: true });
    await refuses(t, (target) => void target.devices.data.content.set(other.devices.data.content), {
      code: 'EINVAL',
      message: /are from different targets/,
    });
  });
  await t.test('the devices swapped', (t) =>
    refuses(
      t,
      ({ devices }) => {
        const meta = at(devices.metaPath, 0, MIB);
        patch(devices.metaPath, 0, devices.data.content.subarray(0, MIB));
        devices.data.content.set(meta, 0);
      },
      { code: 'ENODEV', message: /is a Holdfast data device; it was given as the meta device/ },
    ),
  );
});
