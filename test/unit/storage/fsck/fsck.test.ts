/** The check of a target: what it finds, what it repairs, and that it changes nothing else. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { S_IFREG } from '../../../../src/base/attr.js';
import { FsError } from '../../../../src/base/errno.js';
import { type Name, ROOT_FID, type TargetUuid } from '../../../../src/base/ids.js';
import type { Tx } from '../../../../src/storage/api.js';
import { fidKey, KEY, spaceGroupKey } from '../../../../src/storage/format/keys.js';
import { decodeInode, encodedInode } from '../../../../src/storage/format/records.js';
import { encodeDataHeader } from '../../../../src/storage/format/superblock.js';
import { type FsckOptions, fsckTarget } from '../../../../src/storage/fsck/fsck.js';
import { FINDINGS_KEPT } from '../../../../src/storage/fsck/report.js';
import { createFile, MIB, TEST_TIME, type TestTarget, testTarget } from '../../../fixtures/storage_target.js';
import { CLIENT, fsckWorld, makeInode } from '../../../worlds/fsck_world.js';

function digest(target: TestTarget): string {
  return createHash('sha256')
    .update(readFileSync(target.devices.metaPath))
    .update(target.devices.data.content)
    .digest('hex');
}

test('a sound target is clean, and nothing is written', async (t) => {
  const world = await fsckWorld(t);
  const before = digest(world.target);
  const report = await world.fsck({ checksums: true });
  assert.deepEqual(world.lines(report), []);
  assert.equal(digest(world.target), before);
  assert.deepEqual(
    { ...report, superblock: report.superblock?.label },
    {
      superblock: 'test',
      counts: {
        pages: report.counts.pages,
        inodes: 9,
        directories: 3,
        names: 8,
        xattrs: 2,
        symlinks: 1,
        inlineFiles: 1,
        blockMaps: 3,
        blocks: 17,
        orphans: 1,
        doomed: 0,
        clients: 1,
        replies: 1,
        access: 2,
        checksums: 8,
      },
      findings: [],
      repaired: 0,
      left: 0,
      repairable: 0,
      rounds: 1,
    },
  );
});

test('content that does not match its checksum is found only when it is looked at, and named by file and place', async (t) => {
  const world = await fsckWorld(t);
  const { content } = world.target.devices.data;
  // Blocks 16 to 20 of the device are blocks 0 to 3 and 5 of the file.
  for (const block of [17, 18, 20]) content[block * 4096 + 5] = 0xff;
  assert.deepEqual(world.lines(await world.fsck()), []);
  const report = await world.fsck({ checksums: true, repair: true });
  const fid = world.fids.blocks;
  assert.deepEqual(report.findings, [
    {
      kind: 'checksum',
      text: `of inode ${fid}, blocks 1 to 2 (at byte 69632 of the data device) do not match their checksums`,
      fid,
      path: '/dir/blocks',
      repairable: false,
    },
    {
      kind: 'checksum',
      text: `of inode ${fid}, block 5 (at byte 81920 of the data device) does not match its checksum`,
      fid,
      path: '/dir/blocks',
      repairable: false,
    },
  ]);
  assert.deepEqual([report.repaired, report.left], [0, 2]);
});

test('blocks that cannot be read are named, the others are compared', async (t) => {
  const world = await fsckWorld(t);
  const { devices } = world.target;
  const { data } = devices;
  const read = data.read.bind(data);
  data.read = async (offset, target) => {
    if (offset <= 18 * 4096 && offset + target.length > 18 * 4096) throw new FsError('EIO', 'a bad sector');
    await read(offset, target);
  };
  data.content[19 * 4096] = 9;
  const report = await world.fsck({ checksums: true });
  assert.deepEqual(world.lines(report), [
    `checksum: of inode ${world.fids.blocks}, block 2 (at byte 73728 of the data device) cannot be read`,
    `checksum: of inode ${world.fids.blocks}, block 3 (at byte 77824 of the data device) does not match its checksum`,
  ]);
});

test('bytes behind the end of a file that are no zeros are found', async (t) => {
  const world = await fsckWorld(t);
  await world.damage((writer, db) => {
    const key = fidKey(KEY.inode, world.fids.blocks);
    const before = db.get(key);
    assert(before !== undefined);
    writer.put(key, encodedInode({ ...decodeInode(world.fids.blocks, before), sizeBytes: 6 * 4096 - 10 }));
  });
  assert.deepEqual(world.lines(await world.fsck({ checksums: true })), [
    `content: inode ${world.fids.blocks} has something other than zeros behind its end at 24566`,
  ]);
});

test('an inode that denies its extended attributes is corrected', async (t) => {
  const world = await fsckWorld(t);
  const { dir } = world.fids;
  const key = fidKey(KEY.inode, dir);
  await world.damage((writer, db) => {
    const before = db.get(key);
    assert(before !== undefined);
    writer.put(key, encodedInode({ ...decodeInode(dir, before), noXattrs: true }));
  });
  const said = `inode: inode ${dir} says that it has no extended attributes, and has 1`;
  assert.deepEqual(world.lines(await world.fsck({ repair: true })), [`${said}: corrected`]);
  assert.deepEqual(world.lines(await world.fsck()), []);
});

test('a target that was not stopped cleanly is checked as it is, and repaired only by force', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const fid = createFile(store, 'f');
  await store.data.write(fid, 0, Buffer.alloc(100_000, 1), { time: TEST_TIME });
  await store.sync();
  await store.data.write(fid, 0, Buffer.alloc(100_000, 2), { time: TEST_TIME });
  await store.close();
  target.store = undefined;
  const fsck = (options: FsckOptions): ReturnType<typeof fsckTarget> =>
    fsckTarget(target.runtime, target.devices, options);
  const report = await fsck({ checksums: true });
  assert.deepEqual([report.findings, report.superblock?.clean], [[], false]);
  const before = digest(target);
  await assert.rejects(fsck({ repair: true }), {
    code: 'EBUSY',
    message:
      /^test was not stopped cleanly: start its server and shut it down first.*--force repairs it as it is$/,
  });
  assert.equal(digest(target), before);
  assert.deepEqual((await fsck({ repair: true, force: true })).findings, []);
});

test('what is no target is refused; what is one with a damaged start is named', async (t) => {
  const world = await fsckWorld(t);
  const { devices } = world.target;
  const other = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 48 * MIB });
  const claimed: string[] = [];
  const claim = async (): Promise<never> => {
    claimed.push('claimed');
    throw new FsError('EBUSY', 'in use');
  };
  const strange = { filesystemUuid: CLIENT, targetUuid: CLIENT as string as TargetUuid, sizeBytes: 48 * MIB };
  other.devices.data.content.set(encodeDataHeader(strange, other.runtime.checksum));
  await assert.rejects(
    fsckTarget(world.target.runtime, { ...devices, data: other.devices.data }, { claim }),
    {
      code: 'EINVAL',
      message: /^memory is of target \S+, the meta device of \S+$/,
    },
  );
  other.devices.data.content.fill(0, 0, 4096);
  await assert.rejects(fsckTarget(other.runtime, other.devices, { claim }), {
    code: 'ENODEV',
    message: 'memory is not a Holdfast data device; holdfast mkfs makes one',
  });
  assert.deepEqual(claimed, [], 'nothing was claimed that is not known to be a target');
  await assert.rejects(fsckTarget(world.target.runtime, devices, { claim }), { code: 'EBUSY' });
  devices.data.content[100] = 1;
  const before = digest(world.target);
  const report = await world.fsck({ repair: true, claim });
  assert.deepEqual(world.lines(report), ['data-header: the header of the data device memory is damaged']);
  assert.deepEqual([claimed, report.left, digest(world.target)], [['claimed'], 1, before]);
});

test('more errors than a report keeps are all repaired', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const count = FINDINGS_KEPT + 500;
  for (let made = 0; made < count; made += 100) {
    store.execute((tx) => {
      const { start } = tx.allocateFids(100);
      for (let at = 0; at < 100; at++) {
        const fid = (start + at) as typeof start;
        makeInode(tx, fid, S_IFREG | 0o644, { nlink: 2 });
        tx.putDirent(ROOT_FID, `f${made + at}` as Name, fid, S_IFREG);
      }
    });
    await store.sync();
  }
  await store.markClean();
  await store.close();
  target.store = undefined;
  const found = await fsckTarget(target.runtime, target.devices);
  assert.deepEqual([found.findings.length, found.left, found.repairable], [FINDINGS_KEPT, count, count]);
  const repaired = await fsckTarget(target.runtime, target.devices, { repair: true });
  assert.deepEqual(
    [repaired.findings.length, repaired.repaired, repaired.left, repaired.rounds],
    [FINDINGS_KEPT, count, 0, 3],
  );
  assert.equal((await fsckTarget(target.runtime, target.devices)).left, 0);
});

test('a file whose blocks are marked as free is not removed before a repair, and the store goes on', async (t) => {
  const world = await fsckWorld(t);
  const { target, fids } = world;
  await world.damage((writer) => writer.remove(spaceGroupKey(0)));
  const remove = (tx: Tx): void => {
    tx.removeDirent(fids.dir, 'blocks' as Name);
    tx.destroyInode(fids.blocks);
  };
  let store = await target.open();
  assert.throws(
    () => store.execute(remove),
    (error) => error instanceof FsError && error.code === 'EIO' && /marked as free/.test(error.message),
  );
  assert.equal(store.dirent(fids.dir, 'blocks' as Name)?.fid, fids.blocks);
  createFile(store, 'later');
  await store.markClean();
  await store.close();
  const { left } = await world.fsck({ repair: true });
  store = await target.open();
  store.execute(remove);
  await store.markClean();
  await store.close();
  const after = await world.fsck();
  assert.deepEqual([left, world.lines(after)], [0, []]);
});
