/**
 * Damage by chance below the records, and a server's store on it: pages of the metadata database exchanged, zeroed, with
 * bits turned over, or replaced by older versions of themselves. Each read gives the bytes that were written, or an error.
 * HOLDFAST_DAMAGED_IMAGES=5000 looks at more of them.
 */

import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import type { TargetStore } from '../../../src/storage/api.js';
import { formatTarget } from '../../../src/storage/mkfs.js';
import { openTarget } from '../../../src/storage/target.js';
import { createFile, MIB, TEST_TIME, TestTarget } from '../../fixtures/storage_target.js';

const PAGE = 4096;
const BLOCK = 4096;
const IMAGES = Number(process.env.HOLDFAST_DAMAGED_IMAGES ?? 24);
const FILES = 120;

function chance(seed: number): (below: number) => number {
  let state = seed * 2654435761 + 1;
  return (below) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
    const mixed = Math.imul(state ^ (state >>> 13), 0x297a2d39);
    return ((mixed ^ (mixed >>> 16)) >>> 0) % below;
  };
}

interface KnownFile {
  readonly name: Name;
  content: Buffer;
}

interface Image {
  readonly target: TestTarget;
  readonly files: ReadonlyMap<Fid, KnownFile>;
  readonly sound: Buffer;
  readonly pages: number;
  /** The device at earlier moments. */
  readonly older: readonly Buffer[];
  /** Puts these pages on the device, or all of them back. */
  put(pages: ReadonlyMap<number, Buffer>): void;
}

async function write(
  store: TargetStore,
  fid: Fid,
  file: KnownFile,
  at: number,
  bytes: Buffer,
): Promise<void> {
  const content = Buffer.alloc(Math.max(file.content.length, at + bytes.length));
  content.set(file.content);
  content.set(bytes, at);
  file.content = content;
  await store.data.write(fid, at, Buffer.from(bytes), { time: TEST_TIME });
}

/** Files of every kind, changed in several transactions, so that the device has older versions of its pages. */
async function image(t: TestContext, recordChecksums: boolean): Promise<Image> {
  const target = new TestTarget(16 * MIB, 64 * MIB);
  t.after(() => target.end());
  await formatTarget(target.runtime, target.devices, { label: 'test', force: false, recordChecksums });
  // Only a sync commits: which pages the image has shall not depend on how fast the machine is.
  const store = await target.open({ commitIntervalMs: 600_000 });
  const files = new Map<Fid, KnownFile>();
  const older: Buffer[] = [];
  const next = chance(7);
  const bytes = (length: number): Buffer => Buffer.from(Array.from({ length }, () => 1 + next(255)));
  for (let at = 0; at < FILES; at++) {
    const name = `file with a longer name ${at}` as Name;
    const fid = createFile(store, name);
    const file = { name, content: Buffer.alloc(0) };
    files.set(fid, file);
    if (at % 3 === 0) await write(store, fid, file, 0, bytes(1 + next(3000)));
    else await write(store, fid, file, next(2) * 3 * BLOCK, bytes(1 + next(4 * BLOCK)));
    // Over a block map's end.
    if (at % 10 === 1) await write(store, fid, file, MIB - BLOCK, bytes(3 * BLOCK));
    if (at % 20 === 0) await store.sync();
  }
  for (let round = 0; round < 6; round++) {
    await store.sync();
    older.push(readFileSync(target.devices.metaPath));
    for (const [fid, file] of files) {
      // What changes is the content: an inode that is older by its size alone agrees with its content.
      const { length } = file.content;
      if (next(4) === 0) await write(store, fid, file, next(length), bytes(1 + next(2 * BLOCK)));
    }
  }
  await store.markClean();
  await store.close();
  target.store = undefined;
  const { metaPath } = target.devices;
  const sound = readFileSync(metaPath);
  const pages = 1 + Math.max(sound.readUInt32LE(144), sound.readUInt32LE(PAGE + 144));
  const put = (changed: ReadonlyMap<number, Buffer>): void => {
    const file = openSync(metaPath, 'r+');
    for (const [page, content] of changed) writeSync(file, content, 0, PAGE, page * PAGE);
    closeSync(file);
  };
  return { target, files, sound, pages, older, put };
}

const pageOf = (bytes: Buffer, page: number): Buffer => bytes.subarray(page * PAGE, (page + 1) * PAGE);

type Damage = (image: Image, next: (below: number) => number) => Map<number, Buffer>;

const DAMAGES: Readonly<Record<string, Damage>> = {
  exchanged: ({ sound, pages }, next) => {
    const [one, other] = [2 + next(pages - 2), 2 + next(pages - 2)];
    return new Map([
      [one, pageOf(sound, other)],
      [other, pageOf(sound, one)],
    ]);
  },
  zeroed: ({ pages }, next) => new Map([[2 + next(pages - 2), Buffer.alloc(PAGE)]]),
  'with bits turned over': ({ sound, pages }, next) => {
    const page = 2 + next(pages - 2);
    const changed = Buffer.from(pageOf(sound, page));
    for (let count = 1 + next(3); count > 0; count--) {
      // Headers and the places of records are where damage does most.
      const at = next(3) === 0 ? next(64) : next(PAGE);
      changed[at] = (changed[at] ?? 0) ^ (1 << next(8));
    }
    return new Map([[page, changed]]);
  },
  'with a bit of a key turned over': ({ sound, pages }, next) => {
    for (;;) {
      const page = 2 + next(pages - 2);
      const changed = Buffer.from(pageOf(sound, page));
      const count = changed.readUInt16LE(20) / 2;
      if ((changed.readUInt16LE(18) & 3) === 0 || count === 0) continue;
      const node = 24 + changed.readUInt16LE(24 + 2 * next(count));
      const length = changed.readUInt16LE(node + 6);
      if (length === 0) continue;
      // Those at the end leave a key between its neighbours most often.
      const at = node + 8 + (next(2) === 0 ? length - 1 : next(length));
      changed[at] = (changed[at] ?? 0) ^ (1 << next(8));
      return new Map([[page, changed]]);
    }
  },
  'replaced by older versions': ({ sound, pages, older }, next) => {
    for (;;) {
      const page = 2 + next(pages - 2);
      const before = pageOf(older[next(older.length)] ?? sound, page);
      if (!before.equals(pageOf(sound, page))) return new Map([[page, before]]);
    }
  },
};

interface Tally {
  right: number;
  errors: number;
  refused: number;
}

function isError(thrown: unknown): boolean {
  // ESTALE: an older page does not have the inode yet.
  return thrown instanceof FsError && ['EIO', 'ESTALE', 'ENODEV', 'EPROTO', 'EINVAL'].includes(thrown.code);
}

async function readAll(store: TargetStore, { files }: Image, tally: Tally, what: string): Promise<void> {
  for (const [fid, { content }] of files) {
    try {
      const chunks = await store.data.read(fid, 0, content.length + BLOCK);
      const read = Buffer.concat(chunks.map((chunk) => Buffer.from(chunk)));
      assert.ok(
        read.equals(content),
        `${what}: wrong bytes of fid ${fid}, ${read.length} of ${content.length}`,
      );
      tally.right++;
    } catch (thrown) {
      if (!isError(thrown)) throw thrown;
      tally.errors++;
    }
  }
}

/** Names lead where they led, or to an error. */
function lookAll(store: TargetStore, { files }: Image, what: string): void {
  for (const [fid, { name }] of files) {
    try {
      assert.equal(store.dirent(ROOT_FID, name)?.fid, fid, `${what}: name of fid ${fid}`);
    } catch (thrown) {
      if (!isError(thrown)) throw thrown;
    }
  }
  try {
    const listed = new Set(store.dirents(ROOT_FID, 0, 2 * files.size).map(({ name }) => name));
    for (const { name } of files.values()) assert.ok(listed.has(name), `${what}: ${name} is not listed`);
  } catch (thrown) {
    if (!isError(thrown)) throw thrown;
  }
}

/** Changes: they work or fail, and nothing ends the process. */
async function change(store: TargetStore, { files }: Image): Promise<void> {
  try {
    await store.begin('1.0.0');
    let count = 0;
    for (const [fid, { name }] of files) {
      if (count++ % 4 !== 0) continue;
      store.execute((tx) => {
        tx.removeDirent(ROOT_FID, name);
        tx.destroyInode(fid);
      });
      await store.data.write(createFile(store, `new ${count}`), 0, Buffer.alloc(5000, 1), {
        time: TEST_TIME,
      });
    }
    await store.sync();
    await store.markClean();
  } catch (thrown) {
    if (isError(thrown)) return;
    throw thrown;
  }
}

for (const [what, damage] of Object.entries(DAMAGES)) {
  for (const recordChecksums of [true, false]) {
    // Without them, what lies within the records is not covered.
    if (!recordChecksums && !['exchanged', 'zeroed'].includes(what)) continue;
    const how = recordChecksums ? '' : ', on a target without checksums of records';
    test(`pages ${what}${how}: right bytes or an error, and no crash`, async (t) => {
      const made = await image(t, recordChecksums);
      const { target, sound, pages } = made;
      const tally: Tally = { right: 0, errors: 0, refused: 0 };
      for (let seed = 1; seed <= IMAGES; seed++) {
        const next = chance(seed);
        const changed = damage(made, next);
        made.put(changed);
        const name = `seed ${seed}, pages ${[...changed.keys()]}`;
        try {
          const store = await openTarget(target.runtime, target.devices);
          try {
            await readAll(store, made, tally, name);
            if (what !== 'replaced by older versions') lookAll(store, made, name);
            if (seed % 4 === 0) await change(store, made);
          } finally {
            await store.close();
          }
        } catch (thrown) {
          if (!isError(thrown)) throw thrown;
          tally.refused++;
        }
        const back = seed % 4 === 0 ? pages + 200 : 0;
        const restored = new Map([...changed.keys()].map((page) => [page, pageOf(sound, page)]));
        for (let page = 0; page < back; page++) restored.set(page, pageOf(sound, page));
        made.put(restored);
      }
      t.diagnostic(JSON.stringify({ ...tally, pages }));
      assert.ok(tally.errors > IMAGES / 8, `damage was met: ${JSON.stringify(tally)}`);
      assert.ok(tally.right > IMAGES, `not all is lost: ${JSON.stringify(tally)}`);
    });
  }
}
