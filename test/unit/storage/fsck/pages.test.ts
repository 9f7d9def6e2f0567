/**
 * Damage below the records: pages of the database. lmdb would crash on most of it or write over what is in use; the check
 * names it in one line before lmdb gets to see it, and goes no further.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { S_IFREG } from '../../../../src/base/attr.js';
import { type Name, ROOT_FID } from '../../../../src/base/ids.js';
import { getU64, putU64 } from '../../../../src/storage/format/records.js';
import { LMDB_PAGE_BYTES } from '../../../../src/storage/meta/meta_probe.js';
import { type FsckWorld, fsckWorld, makeInode } from '../../../worlds/fsck_world.js';

const HEADER = 24;

/** The database as its newer meta page has it. */
interface Database {
  readonly root: number;
  readonly lastPage: number;
  readonly metaAt: number;
}

function database(world: FsckWorld): Database {
  const transaction = (at: number): number => getU64(world.peek(at + 152, 8), 0);
  const metaAt = transaction(0) > transaction(LMDB_PAGE_BYTES) ? 0 : LMDB_PAGE_BYTES;
  return {
    metaAt,
    root: getU64(world.peek(metaAt + 96 + 40, 8), 0),
    lastPage: getU64(world.peek(metaAt + 144, 8), 0),
  };
}

function page(world: FsckWorld, number: number): Buffer {
  return world.peek(number * LMDB_PAGE_BYTES, LMDB_PAGE_BYTES);
}

/** Page below a branch page, by its place. */
function child(branch: Buffer, index: number): { readonly number: number; readonly at: number } {
  const at = HEADER + branch.readUInt16LE(HEADER + 2 * index);
  return { number: branch.readUInt32LE(at), at };
}

/** A world whose database has a branch page and a value on pages of its own, and pages on the free list. */
async function grown(t: Parameters<typeof fsckWorld>[0]): Promise<FsckWorld> {
  const world = await fsckWorld(t);
  const store = await world.target.open();
  for (let count = 0; count < 400; count++) {
    store.execute((tx) => {
      const { start } = tx.allocateFids(1);
      makeInode(tx, start, S_IFREG | 0o644);
      tx.putDirent(ROOT_FID, `file ${count}` as Name, start, S_IFREG);
    });
  }
  await store.markClean();
  await store.close();
  return world;
}

/**
 * What the check says when `damage` was done to a page; it ends in order, and changes nothing. What could be gone on from is
 * another matter: see snapshot.test.ts.
 */
async function says(
  t: Parameters<typeof fsckWorld>[0],
  damage: (world: FsckWorld, db: Database) => void,
): Promise<string[]> {
  const world = await grown(t);
  assert.deepEqual(world.lines(await world.fsck()), [], 'sound before');
  const db = database(world);
  damage(world, db);
  const report = await world.fsck();
  assert.equal(report.repaired, 0);
  assert.equal(report.left, report.findings.length);
  const lines = world
    .lines(report)
    .filter(
      (line) => !/^page: (transaction \d+ is damaged|the snapshot of|one of the two meta pages)/.test(line),
    );
  assert.ok(lines.every((line) => !line.includes('\n')));
  // Numbers of pages depend on lmdb's moods.
  return lines.map((line) =>
    line.replaceAll(world.target.devices.metaPath, 'DEV').replace(/page \d+/g, 'page N'),
  );
}

function firstLeaf(world: FsckWorld, db: Database): number {
  return child(page(world, db.root), 0).number;
}

function poke16(world: FsckWorld, number: number, at: number, value: number): void {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  world.poke(number * LMDB_PAGE_BYTES + at, bytes);
}

test('a leaf page of zeros', async (t) => {
  const lines = await says(t, (world, db) => {
    const last = child(page(world, db.root), 1).number;
    world.poke(last * LMDB_PAGE_BYTES, Buffer.alloc(LMDB_PAGE_BYTES));
  });
  assert.deepEqual(lines, ['page: database page N (records): it is not the page it should be']);
});

test('a page of noise where the superblock is', async (t) => {
  const lines = await says(t, (world, db) => {
    world.poke(firstLeaf(world, db) * LMDB_PAGE_BYTES, Buffer.alloc(LMDB_PAGE_BYTES, 0x5a));
  });
  assert.deepEqual(lines, [
    'superblock: the meta device DEV is damaged: database page N is not what it should be',
  ]);
});

test('a meta page of noise', async (t) => {
  const lines = await says(t, (world, db) => world.poke(db.metaAt, Buffer.alloc(200, 0x5a)));
  assert.deepEqual(lines, ['superblock: the start of the meta device DEV is damaged']);
});

test('a branch page that refers beyond the database', async (t) => {
  const lines = await says(t, (world, db) => {
    const { at } = child(page(world, db.root), 2);
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(db.lastPage + 1);
    world.poke(db.root * LMDB_PAGE_BYTES + at, bytes);
  });
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? '', /^page: the database refers to page N, but its last one is \d+$/);
});

test('a page that is reached twice', async (t) => {
  const lines = await says(t, (world, db) => {
    const root = page(world, db.root);
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(child(root, 1).number);
    world.poke(db.root * LMDB_PAGE_BYTES + child(root, 2).at, bytes);
  });
  // Read once for each; its keys fit only one of the places.
  assert.ok(lines.includes('page: database page N (records): page N is used twice'), lines.join('\n'));
});

test('keys that are not in order', async (t) => {
  const lines = await says(t, (world, db) => {
    const leaf = child(page(world, db.root), 1).number;
    const bytes = page(world, leaf);
    poke16(world, leaf, HEADER, bytes.readUInt16LE(HEADER + 2));
    poke16(world, leaf, HEADER + 2, bytes.readUInt16LE(HEADER));
  });
  assert.deepEqual(lines, ['page: database page N (records): its keys are not in order']);
});

test('a record that reaches beyond its page', async (t) => {
  const lines = await says(t, (world, db) => {
    const leaf = child(page(world, db.root), 1).number;
    const node = HEADER + page(world, leaf).readUInt16LE(HEADER);
    poke16(world, leaf, node, 5000);
  });
  assert.deepEqual(lines, ['page: database page N (records): a record reaches beyond the page']);
});

test('records of a page that lie upon each other', async (t) => {
  const lines = await says(t, (world, db) => {
    const leaf = child(page(world, db.root), 1).number;
    // The second record begins where the first does not end.
    const node = HEADER + page(world, leaf).readUInt16LE(HEADER);
    poke16(world, leaf, node, page(world, leaf).readUInt16LE(node) + 2);
  });
  assert.equal(lines.length, 1);
  assert.match(
    lines[0] ?? '',
    /^page: database page N \(records\): (its records do not lie side by side|a record reaches beyond the page)$/,
  );
});

test('a page that is younger than the database', async (t) => {
  const lines = await says(t, (world, db) => {
    const leaf = child(page(world, db.root), 1).number;
    const bytes = Buffer.alloc(8);
    putU64(bytes, 2 ** 40, 0);
    world.poke(leaf * LMDB_PAGE_BYTES + 8, bytes);
  });
  assert.deepEqual(lines, ['page: database page N (records): it is younger than the database']);
});

test('a large value whose pages are not there', async (t) => {
  const lines = await says(t, (world, db) => {
    // The node of the attribute of 9000 bytes: its flag says that the value lies elsewhere.
    const root = page(world, db.root);
    for (let index = 0; 2 * index < root.readUInt16LE(20); index++) {
      const leaf = child(root, index).number;
      const bytes = page(world, leaf);
      for (let at = 0; at < bytes.readUInt16LE(20); at += 2) {
        const node = HEADER + bytes.readUInt16LE(HEADER + at);
        if (bytes.readUInt16LE(node + 4) !== 1) continue;
        const far = Buffer.alloc(8);
        putU64(far, db.lastPage, 0);
        world.poke(leaf * LMDB_PAGE_BYTES + node + 8 + bytes.readUInt16LE(node + 6), far);
        return;
      }
    }
    assert.fail('there is no large value');
  });
  assert.equal(lines.length, 1);
  assert.match(
    lines[0] ?? '',
    /^page: database page N \(records\): refers to pages \d+ to \d+, which are not there$/,
  );
});

test('flags that would make lmdb read its pages by other rules', async (t) => {
  const lines = await says(t, (world) => {
    for (const at of [0, LMDB_PAGE_BYTES]) world.poke(at + 96 + 4, Buffer.from([4]));
  });
  assert.deepEqual(lines, ["page: the database's tree of records has flags 4, which it never has"]);
});

test('a count of entries that is wrong', async (t) => {
  const lines = await says(t, (world, db) => {
    const bytes = Buffer.alloc(8);
    putU64(bytes, 7, 0);
    world.poke(db.metaAt + 96 + 32, bytes);
  });
  assert.equal(lines.length, 1);
  assert.match(
    lines[0] ?? '',
    /^page: the database counts 7 entries in its tree of records, but there are \d+$/,
  );
});

test('a free list that names a page in use', async (t) => {
  const lines = await says(t, (world, db) => {
    const freeRoot = getU64(world.peek(db.metaAt + 48 + 40, 8), 0);
    const leaf = page(world, freeRoot);
    const node = HEADER + leaf.readUInt16LE(HEADER);
    const valueAt = freeRoot * LMDB_PAGE_BYTES + node + 8 + leaf.readUInt16LE(node + 6);
    const value = Buffer.alloc(16);
    putU64(value, 1, 0);
    putU64(value, db.root, 8);
    world.poke(valueAt, value);
  });
  assert.ok(lines.length > 0);
  assert.match(
    lines[0] ?? '',
    /^free-list: the database's free list \(record \d+\) names page N, which is in use/,
  );
});
