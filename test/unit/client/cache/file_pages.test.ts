/** The page cache against the simplest model there is: one Buffer, and what of it is known, dirty and stored. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SlabPool } from '../../../../src/base/slab_pool.js';
import { FilePages } from '../../../../src/client/cache/file_pages.js';
import { type Batch, GRANULE_BYTES } from '../../../../src/client/cache/granule.js';
import { PageCache, type PageMemory } from '../../../../src/client/cache/page_cache.js';

/** Offsets near the border of two granules, where it is interesting. */
const BASE = GRANULE_BYTES - 300;
const SPAN = 600;

class Model {
  readonly cache = new PageCache(64 << 20);
  readonly pages = new FilePages(this.cache);
  /** What a reader of this client must see. */
  readonly content = Buffer.alloc(SPAN);
  /** What the target has. */
  readonly stored = Buffer.alloc(SPAN);
  readonly flights: Batch[] = [];
  /** Views that were handed out, and what they showed then. */
  readonly views: { view: Uint8Array; was: Buffer }[] = [];

  write(at: number, length: number, value: number): void {
    const data = Buffer.alloc(length, value);
    this.pages.write(BASE + at, data, true);
    data.copy(this.content, at);
    // The caller's buffer is its own again.
    data.fill(0xee);
  }

  read(at: number, length: number): void {
    // What is missing comes from the target; nothing that is dirty may be missing.
    for (const gap of this.pages.missing(BASE + at, BASE + at + length)) {
      this.pages.fill(gap.start, Buffer.from(this.stored.subarray(gap.start - BASE, gap.end - BASE)));
    }
    const views = this.pages.collect(BASE + at, BASE + at + length);
    assert.ok(views !== undefined);
    for (const view of views) this.views.push({ view, was: Buffer.from(view) });
    assert.deepEqual(Buffer.concat(views), this.content.subarray(at, at + length));
  }

  take(): void {
    const batch = this.pages.takeDirty(false);
    if (batch === undefined) return;
    for (const other of this.flights) {
      assert.ok(batch.end <= other.start || batch.start >= other.end, 'two WRITEs of one range');
    }
    assert.equal(Buffer.concat(batch.chunks).length, batch.end - batch.start);
    this.flights.push(batch);
  }

  land(index: number): void {
    const [batch] = this.flights.splice(index % Math.max(1, this.flights.length), 1);
    if (batch === undefined) return;
    Buffer.concat(batch.chunks).copy(this.stored, batch.start - BASE);
    this.pages.written(batch);
  }

  check(): void {
    for (const { view, was } of this.views) assert.deepEqual(Buffer.from(view), was, 'a view has changed');
    assert.equal(this.pages.unwrittenBytes, this.cache.dirtyBytes);
    assert.ok(this.pages.dirtyBytes <= this.pages.unwrittenBytes);
  }

  flush(): void {
    const { seq } = this.pages;
    while (!this.pages.isWritten(seq)) {
      this.take();
      this.land(0);
    }
    assert.deepEqual([this.pages.isClean, this.cache.dirtyBytes], [true, 0]);
    assert.deepEqual(this.stored, this.content);
  }
}

const range = fc.tuple(fc.nat(SPAN - 1), fc.integer({ min: 1, max: 120 })).map(([at, length]) => ({
  at,
  length: Math.min(length, SPAN - at),
}));
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      range,
      value: fc.integer({ min: 1, max: 255 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('read' as const), range }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('take' as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('land' as const), index: fc.nat(5) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('append' as const), length: fc.integer({ min: 1, max: 40 }) }),
  },
);

test('pages: readers see every write, views never change, WRITEs never overlap, a flush stores everything', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const model = new Model();
      let end = 0;
      for (const each of steps) {
        switch (each.do) {
          case 'write':
            model.write(each.range.at, each.range.length, each.value);
            end = each.range.at + each.range.length;
            break;
          case 'append':
            // Where the last write ended, as a stream does.
            if (end + each.length <= SPAN) model.write(end, each.length, (end % 255) + 1);
            end = Math.min(end + each.length, SPAN);
            break;
          case 'read':
            model.read(each.range.at, each.range.length);
            break;
          case 'take':
            model.take();
            break;
          case 'land':
            model.land(each.index);
            break;
        }
        model.check();
      }
      model.flush();
    }),
    { numRuns: 300 },
  );
});

test('pages: the limit holds for clean pages, dirty ones stay', () => {
  const cache = new PageCache(4 * GRANULE_BYTES);
  const clean = new FilePages(cache);
  const dirty = new FilePages(cache);
  dirty.write(0, Buffer.alloc(GRANULE_BYTES, 7), false);
  for (let index = 0; index < 20; index += 1) clean.fill(index * GRANULE_BYTES, Buffer.alloc(GRANULE_BYTES));
  assert.ok(cache.bytes <= cache.limitBytes, `${cache.bytes}`);
  assert.equal(dirty.collect(0, 1)?.[0]?.[0], 7);
  assert.equal(clean.collect(0, 1), undefined);
  assert.ok(clean.collect(19 * GRANULE_BYTES, 20 * GRANULE_BYTES) !== undefined);
});

test('pages: what is dropped while it is written back does not come back, and a flush still waits for its WRITE', () => {
  const pages = new FilePages(new PageCache(64 << 20));
  pages.write(0, Buffer.from('dirty'), false);
  const batch = pages.takeDirty(false);
  assert.ok(batch !== undefined);
  assert.equal(pages.dropAll(), 5);
  assert.deepEqual([pages.isWritten(pages.seq), pages.collect(0, 5)], [false, undefined]);
  pages.written(batch);
  assert.deepEqual([pages.isWritten(pages.seq), pages.collect(0, 5), pages.isEmpty], [true, undefined, true]);
});

test('pages: a failed WRITE drops what it carried, not what was written over it meanwhile', () => {
  const pages = new FilePages(new PageCache(64 << 20));
  pages.write(0, Buffer.from('aaaaaaaa'), false);
  const batch = pages.takeDirty(false);
  assert.ok(batch !== undefined);
  pages.write(2, Buffer.from('BB'), false);
  pages.failed(batch);
  assert.deepEqual(
    [pages.collect(2, 4)?.map(String), pages.missing(0, 8), pages.dirtyBytes],
    [
      ['BB'],
      [
        { start: 0, end: 2 },
        { start: 4, end: 8 },
      ],
      2,
    ],
  );
});

test('pages: grant is paid once a block, sent with the WRITE, refunded when nothing is sent', () => {
  const pages = new FilePages(new PageCache(64 << 20));
  assert.equal(pages.grantCost(10, 20), 4096);
  pages.write(10, Buffer.alloc(10), true);
  assert.deepEqual([pages.grantCost(100, 200), pages.grantCost(4000, 5000)], [0, 4096]);
  assert.equal(pages.takeDirty(false)?.grantBytes, 4096);
  pages.write(0, Buffer.alloc(10_000), true);
  pages.dropAll();
  assert.deepEqual([pages.refund(), pages.refund()], [12288, 0]);
});

test('pages: what is cut off is refunded while the rest is dirty', () => {
  const pages = new FilePages(new PageCache(64 << 20));
  pages.write(0, Buffer.alloc(5235), true);
  pages.drop(4096, Number.MAX_SAFE_INTEGER);
  assert.deepEqual([pages.refund(4096, Number.MAX_SAFE_INTEGER), pages.paidBytes], [4096, 4096]);
  // What is left is sent, and nothing is dirty.
  pages.takeDirty(true);
  pages.checkInvariants();
});

test('pages: a stream of small writes becomes whole granules', () => {
  const pages = new FilePages(new PageCache(64 << 20));
  const piece = Buffer.alloc(4096, 1);
  for (let at = 0; at < GRANULE_BYTES; at += piece.length) pages.write(at, piece, false);
  assert.deepEqual([pages.isFull(5), pages.collect(0, GRANULE_BYTES)?.length], [true, 1]);
  const batch = pages.takeDirty(true);
  assert.deepEqual([batch?.start, batch?.end, batch?.chunks.length], [0, GRANULE_BYTES, 1]);
});

/** Page memory that notes what comes back. */
function memoryInto(retired: Buffer[]): PageMemory {
  return {
    take: () => Buffer.allocUnsafeSlow(GRANULE_BYTES),
    retire: (slab) => retired.push(slab),
    keepFree: () => undefined,
  };
}

test('the age of dirty data is that of its oldest granule, whatever is written beside it', () => {
  const pages = new FilePages(new PageCache(64 << 20));
  assert.equal(pages.dirtySinceMs, undefined);
  pages.write(GRANULE_BYTES, Buffer.alloc(10), false, 100);
  pages.write(0, Buffer.alloc(GRANULE_BYTES), false, 200);
  const batch = pages.takeDirty(true);
  if (batch !== undefined) pages.written(batch);
  pages.write(0, Buffer.alloc(GRANULE_BYTES), false, 300);
  pages.write(GRANULE_BYTES + 10, Buffer.alloc(10), false, 400);
  assert.equal(pages.dirtySinceMs, 100);
  pages.drop(GRANULE_BYTES, 2 * GRANULE_BYTES);
  assert.equal(pages.dirtySinceMs, 300);
});

test('memory of an evicted granule is used again, but not what views of a part of it may show', () => {
  const retired: Buffer[] = [];
  const memory = memoryInto(retired);
  const cache = new PageCache(2 * GRANULE_BYTES, memory);
  const pages = new FilePages(cache);
  const read = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  pages.fill(0, read, read);
  const cut = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  pages.fill(GRANULE_BYTES, cut, cut);
  pages.drop(GRANULE_BYTES, GRANULE_BYTES + 4096);
  pages.fill(2 * GRANULE_BYTES, Buffer.allocUnsafeSlow(GRANULE_BYTES));
  pages.fill(3 * GRANULE_BYTES, Buffer.allocUnsafeSlow(GRANULE_BYTES));
  assert.deepEqual(pages.missing(0, 2 * GRANULE_BYTES), [
    { start: 0, end: GRANULE_BYTES },
    { start: GRANULE_BYTES, end: 2 * GRANULE_BYTES },
  ]);
  assert.deepEqual(retired, [read]);
});

test('memory of what was written is used again only when the target has it and the cache let go of it', () => {
  const retired: Buffer[] = [];
  const memory = memoryInto(retired);
  const pages = new FilePages(new PageCache(GRANULE_BYTES, memory));
  // As the kernel sends one write(2) of memory that is not aligned.
  pages.write(0, Buffer.alloc(GRANULE_BYTES - 16, 1), true);
  pages.write(GRANULE_BYTES - 16, Buffer.alloc(16, 2), true);
  const batch = pages.takeDirty(true);
  assert.equal(batch?.chunks.length, 1);
  pages.fill(GRANULE_BYTES, Buffer.allocUnsafeSlow(GRANULE_BYTES));
  assert.equal(retired.length, 0);
  if (batch !== undefined) pages.written(batch);
  pages.fill(2 * GRANULE_BYTES, Buffer.allocUnsafeSlow(GRANULE_BYTES));
  assert.deepEqual(
    retired.map((slab) => slab.buffer),
    [batch?.chunks[0]?.buffer],
  );
});

test('memory of whole pages that are dropped or overwritten is used again, but not what a WRITE may still send', () => {
  const retired: Buffer[] = [];
  const pages = new FilePages(new PageCache(8 * GRANULE_BYTES, memoryInto(retired)));
  const clean = Buffer.allocUnsafeSlow(GRANULE_BYTES);
  pages.fill(0, clean, clean);
  pages.write(0, Buffer.alloc(GRANULE_BYTES, 1), false);
  assert.deepEqual(retired.splice(0), [clean]);
  const flying = pages.takeDirty(true);
  pages.write(GRANULE_BYTES, Buffer.alloc(GRANULE_BYTES, 2), false);
  const dirty = pages.collect(GRANULE_BYTES, 2 * GRANULE_BYTES);
  pages.dropAll();
  assert.deepEqual(
    retired.map((slab) => slab.buffer),
    dirty?.map((view) => view.buffer),
  );
  assert.equal(retired.length, 1);
  assert.ok(flying !== undefined);
  pages.written(flying);
  assert.deepEqual(
    retired.slice(1).map((slab) => slab.buffer),
    flying.chunks.map((chunk) => chunk.buffer),
  );
});

test('memory of a large file that was cut to a little is used again when its WRITE is answered', () => {
  const retired: Buffer[] = [];
  const pages = new FilePages(new PageCache(8 * GRANULE_BYTES, memoryInto(retired)));
  pages.write(0, Buffer.alloc(GRANULE_BYTES, 1), false);
  const flying = pages.takeDirty(true);
  assert.ok(flying !== undefined);
  pages.drop(4096, GRANULE_BYTES);
  assert.equal(retired.length, 0);
  pages.written(flying);
  assert.deepEqual(
    retired.map((slab) => slab.buffer),
    flying.chunks.map((chunk) => chunk.buffer),
  );
  assert.deepEqual(Buffer.concat(pages.collect(0, 4096) ?? []), Buffer.alloc(4096, 1));
});

test('pages and free memory together stay within the limit of the cache', () => {
  const pool = new SlabPool(0);
  const memory: PageMemory = {
    take: () => pool.take(GRANULE_BYTES),
    retire: (slab) => pool.give(slab),
    keepFree: (bytes) => pool.keepAtMost(Math.floor(bytes / GRANULE_BYTES)),
  };
  const cache = new PageCache(8 * GRANULE_BYTES, memory);
  const [large, small] = [new FilePages(cache), new FilePages(cache)];
  const fill = (pages: FilePages, index: number): void => {
    const slab = pool.take(GRANULE_BYTES);
    pages.fill(index * GRANULE_BYTES, slab, slab);
  };
  for (let index = 0; index < 8; index++) fill(large, index);
  large.dropAll();
  fill(large, 0);
  assert.ok(pool.free > 0, 'nothing is kept');
  const piece = Buffer.alloc(4096);
  for (let at = 0; at < 7 * GRANULE_BYTES; at += piece.length) {
    small.write(2 * at, piece, false);
    assert.ok(cache.bytes + pool.free * GRANULE_BYTES <= cache.limitBytes, `at ${at}`);
  }
  assert.equal(pool.free, 0);
});

/** Memory that views keep alive. */
function heldBytes(views: readonly (readonly Uint8Array[] | undefined)[]): number {
  const buffers = new Set(views.flatMap((list) => (list ?? []).map((view) => view.buffer)));
  return [...buffers].reduce((sum, buffer) => sum + buffer.byteLength, 0);
}

test('what is left of large writes that were cut does not keep their memory alive', () => {
  const cache = new PageCache(256 << 20);
  const files = Array.from({ length: 20 }, () => new FilePages(cache));
  for (const pages of files) {
    pages.write(0, Buffer.alloc(GRANULE_BYTES, 1), false);
    pages.drop(4096, GRANULE_BYTES - 4096);
  }
  const views = files.flatMap((pages) => [
    pages.collect(0, 4096),
    pages.collect(GRANULE_BYTES - 4096, GRANULE_BYTES),
  ]);
  assert.deepEqual([cache.bytes, heldBytes(views)], [20 * 8192, 20 * 8192]);
});

test('memory that overwrites leave behind counts, and is given back before it is a quarter of a granule', () => {
  const cache = new PageCache(256 << 20);
  const pages = new FilePages(cache);
  const written = (): void => {
    for (let batch = pages.takeDirty(false); batch !== undefined; batch = pages.takeDirty(false))
      pages.written(batch);
  };
  pages.write(0, Buffer.alloc(GRANULE_BYTES, 1), false);
  written();
  const overwrite = (count: number, first: number): void => {
    for (let at = 0; at < count; at += 1) pages.write((first + 3 * at) * 4096, Buffer.alloc(4096, 2), false);
    written();
  };
  overwrite(60, 0);
  assert.equal(cache.bytes, GRANULE_BYTES + 60 * 4096);
  overwrite(10, 1);
  const held = heldBytes([pages.collect(0, GRANULE_BYTES)]);
  assert.ok(held <= GRANULE_BYTES + 10 * 4096 + 2 * 65_536, `${held} bytes`);
  assert.ok(cache.bytes < GRANULE_BYTES + 10 * 4096, `${cache.bytes} bytes count`);
  pages.checkInvariants();
  pages.dropAll();
  assert.equal(cache.bytes, 0);
});

test('a hole that is written into here and there takes no memory but what was written', () => {
  const cache = new PageCache(256 << 20);
  const pages = new FilePages(cache);
  pages.fillZeros(0, GRANULE_BYTES);
  for (let at = 1; at < 256; at += 3) pages.write(at * 4096, Buffer.alloc(4096, 2), false);
  const held = heldBytes([pages.collect(0, GRANULE_BYTES)]);
  // The zeros, and pieces of 4 KiB in chunks.
  assert.ok(held <= GRANULE_BYTES + 85 * 4096 + 65_536, `${held} bytes`);
});

test('a file that was written in many steps keeps no spare room when it is on the target', () => {
  const cache = new PageCache(256 << 20);
  const pages = new FilePages(cache);
  const steps = 70;
  for (let step = 0; step < steps; step += 1) pages.write(step * 1000, Buffer.alloc(1000, step), false);
  const batch = pages.takeDirty(false);
  assert.ok(batch !== undefined);
  pages.written(batch);
  const views = pages.collect(0, steps * 1000);
  assert.deepEqual([heldBytes([views]), Buffer.concat(views ?? [])[69_500]], [steps * 1000, 69]);
});

test('what is cached beside pages takes of their limit, up to a half of it', () => {
  let beside = 0;
  const cache = new PageCache(64 << 20, undefined, () => beside);
  const pages = new FilePages(cache);
  for (let at = 0; at < 64; at += 1) pages.fill(at * GRANULE_BYTES, Buffer.alloc(GRANULE_BYTES));
  const left = [cache.bytes >> 20];
  for (const mib of [8, 20, 100]) {
    beside = mib << 20;
    cache.makeRoom();
    left.push(cache.bytes >> 20);
  }
  assert.deepEqual(left, [64, 56, 44, 32]);
});

test('what is read page by page counts as much as what is read at once', () => {
  const cache = new PageCache(8 << 20);
  const [byPages, atOnce] = [new FilePages(cache), new FilePages(cache)];
  for (let at = 0; at < 1 << 20; at += 4096) byPages.fill(at, Buffer.alloc(4096, 1));
  assert.equal(cache.bytes, 1 << 20);
  atOnce.fill(0, Buffer.alloc(1 << 20, 1));
  assert.equal(cache.bytes, 2 << 20);
  byPages.drop(0, 1 << 19);
  assert.equal(cache.bytes, (2 << 20) - (1 << 19));
});
