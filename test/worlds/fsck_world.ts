/**
 * A target with one of everything, stopped cleanly, and ways to damage it: records through the database, bytes of both
 * devices below it.
 */

import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import type { TestContext } from 'node:test';
import { S_IFDIR, S_IFLNK, S_IFREG } from '../../src/base/attr.js';
import {
  type ClientUuid,
  type Fid,
  type Name,
  ROOT_FID,
  type Transno,
  type Xid,
} from '../../src/base/ids.js';
import type { Inode, TargetStore, Tx } from '../../src/storage/api.js';
import { type FsckOptions, fsckTarget } from '../../src/storage/fsck/fsck.js';
import type { FsckReport } from '../../src/storage/fsck/report.js';
import { metaMedium } from '../../src/storage/meta/lmdb_store.js';
import { checkedRecords } from '../../src/storage/meta/record_checksums.js';
import type { MetaDatabase, Writer } from '../../src/storage/meta_medium.js';
import { readSuperblock } from '../../src/storage/target.js';
import { accessEntry, accessKeyOf } from '../fixtures/access_entries.js';
import { MIB, TEST_TIME, type TestTarget, testTarget } from '../fixtures/storage_target.js';

export const CLIENT = '11111111-2222-4333-8444-555555555555' as ClientUuid;
const BLOCK = 4096;

/**
 * What is in the target: /dir/{inline,blocks,link}, /dir/sub, /hard and /dir/hard2, an orphan, a client with a reply,
 * and an access table of two. */
export interface Fids {
  readonly dir: Fid;
  readonly sub: Fid;
  readonly inline: Fid;
  readonly blocks: Fid;
  readonly other: Fid;
  readonly link: Fid;
  readonly hard: Fid;
  readonly orphan: Fid;
}

export interface FsckWorld {
  readonly target: TestTarget;
  readonly fids: Fids;
  fsck(options?: FsckOptions): Promise<FsckReport>;
  /** Changes records behind everybody's back. */
  damage(write: (writer: Writer, db: MetaDatabase) => void): Promise<void>;
  /** Overwrites bytes of the meta device. */
  poke(offset: number, bytes: Buffer): void;
  peek(offset: number, length: number): Buffer;
  /** What is wrong, a line each: `kind: text`, and what was done. */
  lines(report: FsckReport): string[];
}

const times = { atime: TEST_TIME, mtime: TEST_TIME, ctime: TEST_TIME, btime: TEST_TIME };
const numbers = { uid: 0, gid: 0, rdev: 0, sizeBytes: 0, blocks: 0 };

export function makeInode(tx: Tx, fid: Fid, mode: number, change: Partial<Inode> = {}): void {
  const inode: Inode = { fid, mode, nlink: 1, ...numbers, ...times, parent: 0, digest: undefined, ...change };
  tx.putInode(inode);
}

function name(text: string): Name {
  return text as Name;
}

async function populate(store: TargetStore): Promise<Fids> {
  const fids = store.execute((tx): Fids => {
    const { start } = tx.allocateFids(8);
    const at = (index: number): Fid => (start + index) as Fid;
    const made: Fids = {
      dir: at(0),
      sub: at(1),
      inline: at(2),
      blocks: at(3),
      other: at(4),
      link: at(5),
      hard: at(6),
      orphan: at(7),
    };
    const root = tx.inode(ROOT_FID);
    if (root !== undefined) tx.putInode({ ...root, nlink: 3 });
    makeInode(tx, made.dir, S_IFDIR | 0o755, { nlink: 3, parent: ROOT_FID, sizeBytes: 4096, blocks: 8 });
    makeInode(tx, made.sub, S_IFDIR | 0o755, { nlink: 2, parent: made.dir, sizeBytes: 4096, blocks: 8 });
    makeInode(tx, made.inline, S_IFREG | 0o644);
    makeInode(tx, made.blocks, S_IFREG | 0o644);
    makeInode(tx, made.other, S_IFREG | 0o644);
    makeInode(tx, made.link, S_IFLNK | 0o777, { sizeBytes: 6 });
    makeInode(tx, made.hard, S_IFREG | 0o644, { nlink: 2 });
    makeInode(tx, made.orphan, S_IFREG | 0o600, { nlink: 0 });
    tx.putOrphan(made.orphan);
    tx.putSymlinkTarget(made.link, Buffer.from('target'));
    tx.putDirent(ROOT_FID, name('dir'), made.dir, S_IFDIR);
    tx.putDirent(made.dir, name('sub'), made.sub, S_IFDIR);
    tx.putDirent(made.dir, name('inline'), made.inline, S_IFREG);
    tx.putDirent(made.dir, name('blocks'), made.blocks, S_IFREG);
    tx.putDirent(made.dir, name('other'), made.other, S_IFREG);
    tx.putDirent(made.dir, name('link'), made.link, S_IFLNK);
    tx.putDirent(ROOT_FID, name('hard'), made.hard, S_IFREG);
    tx.putDirent(made.dir, name('hard2'), made.hard, S_IFREG);
    tx.putXattr(made.dir, 'user.color', Buffer.from('blue'));
    tx.putXattr(made.blocks, 'user.large', Buffer.alloc(9000, 7));
    tx.putClient({
      uuid: CLIENT,
      name: 'c',
      softwareVersion: '1.0.0',
      lastTransno: 0 as Transno,
    });
    tx.putReply(CLIENT, 0, {
      xid: 5 as Xid,
      opcode: 32,
      transno: tx.transno,
      fid: made.dir,
      copiedBytes: 0,
    });
    tx.putAccess(accessEntry('backup', { keys: [accessKeyOf(1), accessKeyOf(2)] }));
    tx.putAccess(accessEntry('host-1', { kind: 'certificate', keys: [], from: ['10.0.0.0/8'] }));
    return made;
  }).result;
  await store.data.write(fids.inline, 0, Buffer.from('small'), { time: TEST_TIME });
  await store.data.write(fids.blocks, 0, Buffer.alloc(3 * BLOCK + 100, 1), { time: TEST_TIME });
  await store.data.write(fids.blocks, 5 * BLOCK, Buffer.alloc(BLOCK, 2), { time: TEST_TIME });
  await store.data.allocate(fids.other, { offset: 0, length: 10 * BLOCK }, false, { time: TEST_TIME });
  await store.data.write(fids.other, BLOCK, Buffer.alloc(BLOCK, 3), { time: TEST_TIME });
  await store.data.write(fids.orphan, 0, Buffer.alloc(2 * BLOCK, 4), { time: TEST_TIME });
  return fids;
}

export async function fsckWorld(t: TestContext): Promise<FsckWorld> {
  const target = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 48 * MIB });
  const store = await target.open();
  const fids = await populate(store);
  await store.markClean();
  await store.close();
  target.store = undefined;
  const onMeta = <R>(flags: string, use: (file: number) => R): R => {
    const file = openSync(target.devices.metaPath, flags);
    try {
      return use(file);
    } finally {
      closeSync(file);
    }
  };
  return {
    target,
    fids,
    fsck: (options) => fsckTarget(target.runtime, target.devices, options),
    damage: async (write) => {
      const { devices, runtime } = target;
      const superblock = await readSuperblock(runtime, devices);
      // What is damaged is what the records say: their checksums are right.
      const db = checkedRecords(metaMedium(devices).open(), runtime.checksum, superblock, { lenient: true });
      try {
        await db.commit((writer) => write(writer, db));
      } finally {
        await db.close();
      }
    },
    poke: (offset, bytes) => onMeta('r+', (file) => writeSync(file, bytes, 0, bytes.length, offset)),
    peek: (offset, length) =>
      onMeta('r', (file) => {
        const bytes = Buffer.alloc(length);
        readSync(file, bytes, 0, length, offset);
        return bytes;
      }),
    lines: (report) =>
      report.findings.map(
        ({ kind, text, repaired }) => `${kind}: ${text}${repaired === undefined ? '' : `: ${repaired}`}`,
      ),
  };
}
