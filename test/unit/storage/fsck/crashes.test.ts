/**
 * What a crash leaves is consistent: operations of every kind run side by side, power is lost at any moment (of the data
 * written and not flushed any part survives), and the check finds nothing wrong, every block as its checksum says.
 */

import assert from 'node:assert/strict';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { S_IFREG } from '../../../../src/base/attr.js';
import { FsError } from '../../../../src/base/errno.js';
import { type Fid, type Name, ROOT_FID } from '../../../../src/base/ids.js';
import type { TargetStore } from '../../../../src/storage/api.js';
import { fsckTarget } from '../../../../src/storage/fsck/fsck.js';
import { accessEntry } from '../../../fixtures/access_entries.js';
import { createFile, MIB, TEST_TIME, type TestTarget, testTarget } from '../../../fixtures/storage_target.js';

const TIME = TEST_TIME;
const FILE_BYTES = 600_000;
/** A hundred found what there was to find; these keep it found. */
const SEEDS = [1, 2, 6, 8];

function chance(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

class Workload {
  readonly #store: TargetStore;
  readonly #next: (below: number) => number;
  readonly #files: Fid[];
  #made: number;

  constructor(store: TargetStore, next: (below: number) => number, generation: number) {
    this.#store = store;
    this.#next = next;
    this.#made = generation * 100_000;
    this.#files = store.dirents(ROOT_FID, 0, 1000).map(({ fid }) => fid);
  }

  /** One operation; what it answers does not matter, but that it is one of the expected errors. */
  async step(): Promise<void> {
    try {
      await this.#operation();
    } catch (thrown) {
      assert.ok(
        thrown instanceof FsError && ['ENOSPC', 'ESTALE', 'EIO'].includes(thrown.code),
        String(thrown),
      );
    }
  }

  async #operation(): Promise<void> {
    const next = this.#next;
    const { data } = this.#store;
    const fid = this.#files[next(this.#files.length)];
    const offset = next(3) === 0 ? next(4096) : next(FILE_BYTES);
    const length = 1 + (next(3) === 0 ? next(FILE_BYTES / 2) : next(9000));
    switch (fid === undefined ? 0 : next(12)) {
      case 0:
        this.#files.push(createFile(this.#store, `f${this.#made++}`));
        return;
      case 1:
        return this.#link(fid as Fid);
      case 2:
        return this.#unlink();
      case 3:
        await data.truncate(fid as Fid, next(2) === 0 ? 0 : offset, { time: TIME });
        return;
      case 4:
        await data.allocate(fid as Fid, { offset, length }, next(2) === 0, { time: TIME });
        return;
      case 5:
        await data.clear(fid as Fid, { offset, length }, next(2) === 0 ? 'punch' : 'zero', next(2) === 0, {
          time: TIME,
        });
        return;
      case 6: {
        const to = this.#files[next(this.#files.length)] as Fid;
        if (to !== fid)
          await data.copy(
            { fid: fid as Fid, offset: offset },
            { fid: to, offset: next(FILE_BYTES) },
            length,
            { time: TIME },
          );
        return;
      }
      case 7:
        this.#store.execute((tx) => {
          if (tx.inode(fid as Fid) === undefined) return;
          tx.putXattr(fid as Fid, `user.a${next(4)}`, Buffer.alloc(next(6000), 1));
        });
        return;
      default:
        await data.write(fid as Fid, offset, Buffer.alloc(length, next(255)), { time: TIME });
    }
  }

  #link(fid: Fid): void {
    const name = `f${this.#made++}` as Name;
    this.#store.execute((tx) => {
      const inode = tx.inode(fid);
      if (inode === undefined || inode.nlink === 0) return;
      tx.putDirent(ROOT_FID, name, fid, S_IFREG);
      tx.putInode({ ...inode, nlink: inode.nlink + 1 });
    });
  }

  #unlink(): void {
    const entries = this.#store.dirents(ROOT_FID, 0, 1000);
    const entry = entries[this.#next(entries.length)];
    if (entry === undefined) return;
    const isOpen = this.#next(2) === 0;
    this.#store.execute((tx) => {
      const inode = tx.inode(entry.fid);
      if (inode === undefined) return;
      tx.removeDirent(ROOT_FID, entry.name);
      if (inode.nlink > 1 || isOpen) tx.putInode({ ...inode, nlink: inode.nlink - 1 });
      if (inode.nlink > 1) return;
      if (isOpen) tx.putOrphan(entry.fid);
      else tx.destroyInode(entry.fid);
    });
  }
}

/** Adds an entry to the access table, or removes it. */
function changeAccess(store: TargetStore, name: string): void {
  const isThere = store.access().some((entry) => entry.name === name);
  store.execute((tx) => (isThere ? tx.removeAccess(name) : tx.putAccess(accessEntry(name))), {
    reserve: 'own',
  });
}

/** Power is lost. The devices are as they would be found. */
async function powerLost(
  target: TestTarget,
  store: TargetStore,
  copy: number,
  next: (below: number) => number,
): Promise<void> {
  const metaPath = join(target.folder, `crashed${copy}.img`);
  copyFileSync(target.devices.metaPath, metaPath);
  target.devices.data.crash(() => next(2) === 0);
  await store.close();
  target.store = undefined;
  target.devices = { ...target.devices, metaPath };
}

for (const seed of SEEDS) {
  test(`power lost at any moment leaves a consistent target (${seed})`, async (t) => {
    const target = await testTarget(t, { metaBytes: 16 * MIB, dataBytes: 24 * MIB });
    const next = chance(seed);
    for (let generation = 0; generation < 8; generation++) {
      const store = await target.open({ commitIntervalMs: 1 });
      const work = new Workload(store, next, generation);
      const running: Promise<void>[] = [];
      for (let count = 20 + next(120); count > 0; count--) {
        running.push(work.step());
        if (count % 16 === 0) changeAccess(store, `e${count % 3}`);
        // Some of them side by side, with commits in between.
        if (next(4) === 0) await Promise.all(running.splice(0));
        if (next(20) === 0) await store.sync();
      }
      await powerLost(target, store, generation, next);
      await Promise.all(running);
      const report = await fsckTarget(target.runtime, target.devices, { checksums: true });
      assert.deepEqual(report.findings, [], `generation ${generation}`);
      assert.equal(report.superblock?.clean, false);
    }
  });
}
