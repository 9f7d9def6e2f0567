/**
 * The disk of a released build (test/fixtures/golden/disk_v1), opened by this one: every record is read as it was meant.
 * test/interop/frozen_image.test.ts serves it.
 */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, type Timespec } from '../../../src/base/attr.js';
import { type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import type { Reader, TargetDevices, TargetStore } from '../../../src/storage/api.js';
import { bareKey } from '../../../src/storage/format/keys.js';
import { fsckTarget } from '../../../src/storage/fsck/fsck.js';
import { metaMedium } from '../../../src/storage/meta/lmdb_store.js';
import { openTarget } from '../../../src/storage/target.js';
import {
  type FrozenContents,
  type FrozenEntry,
  frozenContents,
  unpackImage,
} from '../../fixtures/frozen_image.js';
import { MemoryDevice } from '../../fixtures/memory_device.js';
import { RELEASE_0_1 } from '../../fixtures/releases.js';
import { testRuntime } from '../../fixtures/storage_target.js';

/** Every kind of record of format 1. */
const KINDS = [0x01, 0x02, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a];

interface Image {
  readonly contents: FrozenContents;
  readonly devices: TargetDevices & { readonly data: MemoryDevice };
  open(): Promise<TargetStore>;
}

function image(t: TestContext, name: string): Image {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-frozen-'));
  const files = { meta: join(folder, 'meta.img'), data: join(folder, 'data.img') };
  unpackImage(name, files);
  const data = new MemoryDevice(statSync(files.data).size);
  data.content.set(readFileSync(files.data));
  const runtimeDir = join(folder, 'run');
  mkdirSync(runtimeDir);
  const devices = { metaPath: files.meta, metaSizeBytes: statSync(files.meta).size, data, runtimeDir };
  const opened: TargetStore[] = [];
  t.after(async () => {
    for (const store of opened) await store.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const open = async (): Promise<TargetStore> => {
    const store = await openTarget(testRuntime(), devices);
    opened.push(store);
    return store;
  };
  return { contents: frozenContents(name), devices, open };
}

const nanoseconds = ({ sec, nsec }: Timespec): string => String(BigInt(sec) * 1_000_000_000n + BigInt(nsec));

/** Bytes of a name as the agent tells them: UTF-8, and other bytes as lone surrogates. */
function agentText(name: Name): string {
  const bytes = Buffer.from(name, 'latin1');
  const text = bytes.toString('utf8');
  if (Buffer.from(text, 'utf8').equals(bytes)) return text;
  return [...bytes].map((byte) => String.fromCharCode(byte < 0x80 ? byte : 0xdc00 + byte)).join('');
}

async function content(store: TargetStore, fid: Fid, sizeBytes: number): Promise<Buffer> {
  return Buffer.concat(await store.data.read(fid, 0, sizeBytes)).subarray(0, sizeBytes);
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** What stands in the image, as FrozenContents has it. */
async function entriesOf(store: TargetStore): Promise<FrozenEntry[]> {
  const found: FrozenEntry[] = [];
  const look = async (path: string, fid: Fid): Promise<void> => {
    const inode = store.inode(fid);
    assert.ok(inode !== undefined, path);
    const { mode, nlink, uid, gid, blocks, rdev } = inode;
    const type = mode & S_IFMT;
    const times = { mtimeNs: nanoseconds(inode.mtime), ctimeNs: nanoseconds(inode.ctime) };
    const xattrs = Object.fromEntries(
      store.xattrNames(fid).map((name) => [name, store.xattr(fid, name)?.toString('latin1') ?? '']),
    );
    found.push({
      ...{ path, ino: fid, mode, nlink, uid, gid, size: inode.sizeBytes, blocks, rdev, ...times, xattrs },
      ...(type === S_IFLNK ? { target: store.symlinkTarget(fid)?.toString('utf8') ?? '' } : {}),
      ...(type === S_IFREG ? { sha256: sha256(await content(store, fid, inode.sizeBytes)) } : {}),
    });
    if (type !== S_IFDIR) return;
    for (const { name, fid: child } of allNames(store, fid)) {
      await look(path === '' ? agentText(name) : `${path}/${agentText(name)}`, child);
    }
  };
  await look('', ROOT_FID);
  return found;
}

function allNames(store: Reader, directory: Fid): readonly { readonly name: Name; readonly fid: Fid }[] {
  const found = store.dirents(directory, 0, 10_000);
  for (const { name, fid } of found) assert.equal(store.dirent(directory, name)?.fid, fid);
  return found;
}

/** fsck, content too. */
async function assertSound(devices: TargetDevices): Promise<void> {
  const { findings, left } = await fsckTarget(testRuntime(), devices, { checksums: true });
  assert.deepEqual([findings, left], [[], 0]);
}

const byPath = (a: FrozenEntry, b: FrozenEntry): number => (a.path < b.path ? -1 : 1);

test('the disk of format 1 has every kind of record, and they are read as they were meant', async (t) => {
  const { contents, devices, open } = image(t, RELEASE_0_1.disk);
  const store = await open();
  const { formatVersion, label, targetUuid, softwareVersion, instance, clean } = store.superblock;
  assert.deepEqual(
    { formatVersion, label, targetUuid, softwareVersion, instance, clean },
    {
      formatVersion: 1,
      label: contents.label,
      targetUuid: contents.targetUuid,
      softwareVersion: contents.softwareVersion,
      instance: contents.instance,
      clean: true,
    },
  );
  const entries = await entriesOf(store);
  assert.deepEqual(entries.sort(byPath), [...contents.entries].sort(byPath));
  assert.deepEqual(
    store.clients().map(({ uuid, name }) => ({ uuid, name })),
    [contents.client],
  );
  const { ino, sha256: digest } = contents.orphan;
  const orphan = store.inode(ino as Fid);
  assert.deepEqual([store.orphans(), orphan?.nlink], [[ino], 0]);
  assert.equal(sha256(await content(store, ino as Fid, orphan?.sizeBytes ?? 0)), digest);
  await store.close();
  await assertSound(devices);

  const db = metaMedium(devices).open();
  try {
    const missing = KINDS.filter((kind) => {
      const [first] = db.range(Buffer.from([kind]), Buffer.from([kind + 1]), 1);
      return first === undefined && db.get(bareKey(kind as Parameters<typeof bareKey>[0])) === undefined;
    });
    assert.deepEqual(missing, []);
  } finally {
    await db.close();
  }
});

test('this build goes on where format 1 was left: it changes it, and what was there stays', async (t) => {
  const { contents, devices, open } = image(t, RELEASE_0_1.disk);
  let store = await open();
  await store.begin('9.9.9');
  const named = contents.entries.find(({ path }) => path === 'blocks smallest');
  assert.ok(named !== undefined);
  const time = { sec: 5, nsec: 6 };
  await store.data.write(named.ino as Fid, 4000, Buffer.from('written by this build'), { time });
  await store.markClean();
  await store.close();
  await assertSound(devices);
  store = await open();
  assert.deepEqual(
    [store.superblock.instance, store.superblock.softwareVersion],
    [contents.instance + 1, '9.9.9'],
  );
  const entries = await entriesOf(store);
  const without = (list: readonly FrozenEntry[]): FrozenEntry[] =>
    list.filter(({ path }) => path !== named.path).sort(byPath);
  assert.deepEqual(without(entries), without(contents.entries));
  const changed = await content(store, named.ino as Fid, 4021);
  assert.equal(changed.toString('latin1'), `${'b'.repeat(4000)}written by this build`);
});
