/** File data against a plain buffer: random operations, clean restarts and crashes. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { S_IFREG } from '../../../../src/base/attr.js';
import { FsError } from '../../../../src/base/errno.js';
import { type Fid, type Name, ROOT_FID } from '../../../../src/base/ids.js';
import type { TargetStore } from '../../../../src/storage/api.js';
import { BLOCK_BYTES, MAP_BYTES } from '../../../../src/storage/format/block_map.js';
import { formatTarget } from '../../../../src/storage/mkfs.js';
import { createFile, MIB, TEST_TIME, TestTarget, testTarget } from '../../../fixtures/storage_target.js';

const TIME = { sec: 5, nsec: 6 };
/** Hundreds found what there was to find; these keep it found. */
const RUNS = 15;
/** Beyond two block maps, so that operations cross their borders. */
const SPACE = 2 * MAP_BYTES + 5 * BLOCK_BYTES;

type Op =
  | { readonly do: 'write'; readonly offset: number; readonly length: number; readonly byte: number }
  | { readonly do: 'truncate'; readonly size: number }
  | { readonly do: 'allocate'; readonly offset: number; readonly length: number; readonly keepSize: boolean }
  | {
      readonly do: 'clear';
      readonly offset: number;
      readonly length: number;
      readonly how: 'punch' | 'zero';
      readonly keepSize: boolean;
    }
  | { readonly do: 'copy'; readonly from: number; readonly to: number; readonly length: number }
  | { readonly do: 'sync' | 'reopen' };

const offset = fc.oneof(
  fc.integer({ min: 0, max: 5000 }),
  fc.integer({ min: 0, max: SPACE }),
  fc.integer({ min: 0, max: SPACE / BLOCK_BYTES }).map((block) => block * BLOCK_BYTES),
);
const length = fc.oneof(
  fc.integer({ min: 1, max: 5000 }),
  fc.integer({ min: 1, max: 300_000 }),
  fc.integer({ min: 1, max: 64 }).map((blocks) => blocks * BLOCK_BYTES),
);
const keepSize = fc.boolean();
const operation: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ do: fc.constant('write' as const), offset, length, byte: fc.nat(255) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('truncate' as const), size: offset }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('allocate' as const), offset, length, keepSize }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('clear' as const),
      offset,
      length,
      how: fc.constantFrom('punch' as const, 'zero' as const),
      keepSize,
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('copy' as const), from: offset, to: offset, length }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('sync' as const, 'reopen' as const) }) },
);

/** What the file should be. */
class Model {
  content: Buffer = Buffer.alloc(0);

  apply(op: Op): void {
    switch (op.do) {
      case 'write':
        this.#grow(op.offset + op.length);
        fillPattern(this.content, op);
        return;
      case 'truncate':
        if (op.size < this.content.length) this.content = Buffer.from(this.content.subarray(0, op.size));
        this.#grow(op.size);
        return;
      case 'allocate':
        if (!op.keepSize) this.#grow(op.offset + op.length);
        return;
      case 'clear':
        if (op.how === 'zero' && !op.keepSize) this.#grow(op.offset + op.length);
        this.content.fill(
          0,
          Math.min(op.offset, this.content.length),
          Math.min(op.offset + op.length, this.content.length),
        );
        return;
      case 'copy': {
        const source = Buffer.from(this.content.subarray(op.from, op.from + op.length));
        if (source.length === 0) return;
        this.#grow(op.to + source.length);
        this.content.set(source, op.to);
        return;
      }
      default:
    }
  }
  #grow(size: number): void {
    if (size <= this.content.length) return;
    this.content = Buffer.concat([this.content, Buffer.alloc(size - this.content.length)]);
  }
}

function fillPattern(
  target: Buffer,
  op: { readonly offset: number; readonly length: number; readonly byte: number },
): void {
  for (let at = op.offset; at < op.offset + op.length; at++) target[at] = (op.byte + at) & 0xff;
}

/** Overlapping copies within one file are the caller's to refuse. */
function overlaps(op: Op): boolean {
  return op.do === 'copy' && op.from < op.to + op.length && op.to < op.from + op.length;
}

async function apply(store: TargetStore, fid: Fid, op: Op): Promise<void> {
  switch (op.do) {
    case 'write': {
      const data = Buffer.alloc(op.offset + op.length);
      fillPattern(data, op);
      await store.data.write(fid, op.offset, Buffer.from(data.subarray(op.offset)), { time: TIME });
      return;
    }
    case 'truncate':
      await store.data.truncate(fid, op.size, { time: TIME });
      return;
    case 'allocate':
      await store.data.allocate(fid, { offset: op.offset, length: op.length }, op.keepSize, { time: TIME });
      return;
    case 'clear':
      await store.data.clear(fid, { offset: op.offset, length: op.length }, op.how, op.keepSize, {
        time: TIME,
      });
      return;
    case 'copy':
      await store.data.copy({ fid: fid, offset: op.from }, { fid: fid, offset: op.to }, op.length, {
        time: TIME,
      });
      return;
    case 'sync':
      await store.sync();
      return;
    default:
  }
}

async function contentOf(store: TargetStore, fid: Fid): Promise<Buffer> {
  return Buffer.concat(await store.data.read(fid, 0, 1 << 30));
}

/** Everything that can be asked of the file agrees with the model. */
async function verify(store: TargetStore, fid: Fid, model: Model): Promise<void> {
  const inode = store.inode(fid);
  assert.equal(inode?.sizeBytes, model.content.length);
  const content = await contentOf(store, fid);
  if (!content.equals(model.content)) {
    const at = content.findIndex((byte, index) => byte !== model.content[index]);
    assert.fail(`content differs at ${at}: ${content[at]} for ${model.content[at]}`);
  }
  // What seek calls holes is zeros, and data and holes alternate to the end.
  let at = 0;
  while (at < content.length) {
    const data = store.data.seek(fid, at, 'data') ?? content.length;
    assert.ok(
      content.subarray(at, data).every((byte) => byte === 0),
      `a hole at ${at} holds data`,
    );
    if (data === content.length) break;
    const hole = store.data.seek(fid, data, 'hole') ?? -1;
    assert.ok(hole > data && hole <= content.length, `no hole after ${data}`);
    at = hole;
  }
  assert.equal(store.data.seek(fid, content.length, 'data'), undefined);
}

async function withTarget(
  run: (target: TestTarget, store: TargetStore, fid: Fid) => Promise<void>,
): Promise<void> {
  const target = new TestTarget(16 * MIB, 32 * MIB);
  try {
    await formatTarget(target.runtime, target.devices, { label: 'test', force: false });
    const store = await target.open();
    await run(target, store, createFile(store, 'file'));
  } finally {
    await target.end();
  }
}

test('any sequence of data operations leaves what a plain buffer would hold, across restarts', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { minLength: 1, maxLength: 25 }), async (ops) => {
      await withTarget(async (target, first, fid) => {
        let store = first;
        const model = new Model();
        for (const op of ops) {
          if (overlaps(op)) continue;
          if (op.do === 'reopen') store = await target.reopen();
          await apply(store, fid, op);
          model.apply(op);
          await verify(store, fid, model);
        }
        store = await target.reopen();
        await verify(store, fid, model);
        // All space comes back.
        store.execute((tx) => tx.destroyInode(fid), { reserve: true });
        await store.sync();
        const { blocks, blocksFree } = store.statfs();
        assert.equal(blocksFree, blocks);
      });
    }),
    { numRuns: RUNS, includeErrorInReport: true },
  );
});

test('after a crash the file is as some executed operation left it, at least as of the last sync', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(operation, { minLength: 2, maxLength: 20 }),
      fc.infiniteStream(fc.boolean()),
      async (ops, survives) => {
        await withTarget(async (target, first, fid) => {
          let store = first;
          await store.sync();
          const model = new Model();
          // Contents the file may have after a crash: as of the last sync and after each operation since.
          let possible = [Buffer.from(model.content)];
          for (const op of ops) {
            if (overlaps(op) || op.do === 'copy') continue;
            await apply(store, fid, op);
            model.apply(op);
            if (op.do === 'sync') possible = [];
            possible.push(Buffer.from(model.content));
            if (op.do !== 'reopen') continue;
            store = await target.crash(() => survives.next().value ?? false);
            const content = await contentOf(store, fid);
            const found = possible.findLast((candidate) => candidate.equals(content));
            assert.ok(found !== undefined, 'the content is that of no moment');
            model.content = Buffer.from(found);
            await verify(store, fid, model);
            possible = [Buffer.from(found)];
          }
        });
      },
    ),
    { numRuns: RUNS, includeErrorInReport: true },
  );
});

test('a changed byte on the device is EIO, never wrong bytes', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const fid = createFile(store, 'f');
  await store.data.write(fid, 0, Buffer.alloc(3 * BLOCK_BYTES, 7), { time: TIME });
  await store.sync();
  const at = target.devices.data.content.indexOf(Buffer.alloc(BLOCK_BYTES, 7));
  target.devices.data.content[at + BLOCK_BYTES + 5] = 8;
  assert.equal(Buffer.concat(await store.data.read(fid, 0, BLOCK_BYTES))[0], 7);
  await assert.rejects(async () => store.data.read(fid, 0, 2 * BLOCK_BYTES), { code: 'EIO' });
  // A write of a part of the block would have to keep the rest of it.
  await assert.rejects(async () => store.data.write(fid, BLOCK_BYTES + 1, Buffer.from('x'), { time: TIME }), {
    code: 'EIO',
  });
  await store.data.write(fid, BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 9), { time: TIME });
  assert.equal(Buffer.concat(await store.data.read(fid, BLOCK_BYTES, 1))[0], 9);
});

test('a full data device refuses writes with nothing changed, deletes make it usable again', async (t) => {
  const target = await testTarget(t, { dataBytes: 16 * MIB });
  const store = await target.open();
  const fid = createFile(store, 'f');
  let size = 0;
  await assert.rejects(
    async () => {
      for (;;) {
        await store.data.write(fid, size, Buffer.alloc(MIB, 1), { time: TIME });
        size += MIB;
      }
    },
    (thrown) => thrown instanceof FsError && thrown.code === 'ENOSPC',
  );
  assert.equal(store.inode(fid)?.sizeBytes, size);
  await store.data.truncate(fid, size - 100, { time: TIME });
  store.execute((tx) => tx.destroyInode(fid), { reserve: true });
  const other = createFile(store, 'g');
  await store.data.write(other, 0, Buffer.alloc(size, 2), { time: TIME });
  assert.equal(Buffer.concat(await store.data.read(other, size - 1, 1))[0], 2);
});

test('concurrent writes of one file all take effect, overlapping ones in their order', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const fid = createFile(store, 'f');
  const model = new Model();
  const writes: Promise<unknown>[] = [];
  for (let index = 0; index < 60; index++) {
    const op: Op = { do: 'write', offset: ((index * 7919) % 40) * 1500, length: 6000 + index, byte: index };
    model.apply(op);
    writes.push(apply(store, fid, op));
  }
  await Promise.all(writes);
  await verify(store, fid, model);
});

test('the blocks of a large destroyed file come free in the background, across a restart', async (t) => {
  const target = await testTarget(t, { dataBytes: 256 * MIB });
  let store = await target.open();
  const fid = createFile(store, 'large');
  await store.data.allocate(fid, { offset: 0, length: 200 * MIB }, false, { time: TIME });
  store.execute(
    (tx) => {
      tx.removeDirent(1 as Fid, 'large' as Name);
      tx.destroyInode(fid);
    },
    { reserve: true },
  );
  assert.notEqual(store.statfs().blocksFree, store.statfs().blocks);
  store = await target.reopen();
  while (store.statfs().blocksFree !== store.statfs().blocks)
    await new Promise((resolve) => setImmediate(resolve));
  assert.equal(store.inode(fid), undefined);
});

test('within runs in the transaction of the data operation, and its failure undoes it', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const fid = createFile(store, 'f');
  const free = store.statfs().blocksFree;
  await assert.rejects(
    async () =>
      store.data.write(fid, 0, Buffer.alloc(MIB), {
        time: TIME,
        within: () => {
          throw new FsError('EPROTO');
        },
      }),
    { code: 'EPROTO' },
  );
  assert.deepEqual([store.inode(fid)?.sizeBytes, store.statfs().blocksFree], [0, free]);
  const executed = await store.data.write(fid, 0, Buffer.alloc(MIB), {
    time: TIME,
    within: (tx, inode) => {
      tx.putXattr(fid, 'user.transno', Buffer.from(`${tx.transno} ${inode.sizeBytes}`));
    },
  });
  assert.equal(store.xattr(fid, 'user.transno')?.toString(), `${executed.transno} ${MIB}`);
});

/** Makes an empty file and gives it this content, in one transaction. */
function makeWhole(store: TargetStore, name: string, content: Uint8Array): Fid {
  return store.execute((tx) => {
    const times = { atime: TEST_TIME, mtime: TEST_TIME, ctime: TEST_TIME, btime: TEST_TIME };
    const numbers = { nlink: 1, uid: 0, gid: 0, rdev: 0, sizeBytes: 0, blocks: 0, parent: 0 } as const;
    const { start: fid } = tx.allocateFids(1);
    tx.putInode({ fid, mode: S_IFREG | 0o644, ...numbers, ...times, digest: undefined });
    tx.putDirent(ROOT_FID, name as Name, fid, S_IFREG);
    store.data.putWhole(tx, fid, content, WHOLE_TIME);
    return fid;
  }).result;
}
const WHOLE_TIME = { sec: 77, nsec: 88 } as const;

test('a file that a transaction makes gets its whole content in that transaction, as bytes of its own', async (t) => {
  const target = await testTarget(t);
  let store = await target.open();
  const content = Buffer.alloc(4032, 'x');
  const fids = [0, 1, 513, 4032].map((length) => makeWhole(store, `f${length}`, content.subarray(0, length)));
  content.fill('y');
  store = await target.reopen();
  for (const [index, length] of [0, 1, 513, 4032].entries()) {
    const fid = fids[index] as Fid;
    const inode = store.inode(fid);
    assert.deepEqual(
      [inode?.sizeBytes, inode?.blocks, inode?.mtime, inode?.ctime, inode?.atime],
      [length, Math.ceil(length / 512), WHOLE_TIME, WHOLE_TIME, TEST_TIME],
    );
    assert.equal((await contentOf(store, fid)).toString(), 'x'.repeat(length));
  }
  store.checkInvariants();
});

test('the whole content of a file is refused if the file has some, is none, or the content is too long', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const refused = { code: 'EINVAL' };
  const last = store.lastTransno;
  assert.throws(() => makeWhole(store, 'long', Buffer.alloc(4033)), refused);
  assert.deepEqual(
    [store.dirent(ROOT_FID, 'long' as Name), store.lastTransno],
    [undefined, last],
    'the transaction left nothing',
  );
  const put = (fid: Fid) => () =>
    store.execute((tx) => store.data.putWhole(tx, fid, Buffer.from('new'), TEST_TIME));
  const small = makeWhole(store, 'small', Buffer.from('old'));
  const large = createFile(store, 'large');
  await store.data.write(large, 0, Buffer.alloc(8192, 'b'), { time: TEST_TIME });
  for (const fid of [small, large, ROOT_FID, 12_345 as Fid]) assert.throws(put(fid), refused);
  assert.equal((await contentOf(store, small)).toString(), 'old');
});

test('a hole copied behind the end of a small file makes it as long as it says', async (t) => {
  const target = await testTarget(t);
  const store = await target.open();
  const [holes, small, smaller] = ['holes', 'small', 'smaller'].map((name) => createFile(store, name)) as [
    Fid,
    Fid,
    Fid,
  ];
  await store.data.truncate(holes, 100_000, { time: TIME });
  for (const fid of [small, smaller]) await store.data.write(fid, 0, Buffer.from('inline'), { time: TIME });
  await store.data.copy({ fid: holes, offset: 0 }, { fid: small, offset: 10 }, 90_000, { time: TIME });
  await store.data.copy({ fid: holes, offset: 0 }, { fid: smaller, offset: 4 }, 1000, { time: TIME });
  const content = async (fid: Fid): Promise<Buffer> => Buffer.concat(await store.data.read(fid, 0, 200_000));
  assert.ok((await content(small)).equals(Buffer.concat([Buffer.from('inline'), Buffer.alloc(90_004)])));
  assert.ok((await content(smaller)).equals(Buffer.concat([Buffer.from('inli'), Buffer.alloc(1000)])));
});
