/**
 * Giving data locks back while the kernel is busy with the file: its reads and writes hold folios that an invalidation
 * waits for. The kernel here behaves so: dropPages() does not resolve while a request of its range is unanswered.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { clientWorld, O_RDONLY, O_RDWR, O_WRONLY, type TestClient } from '../../../worlds/client_world.js';

const PAGE = 4096;

/** A kernel with folio locks and a page cache of one file. */
class FolioKernel {
  readonly #client: TestClient;
  readonly #file: { fid: Fid; fh: never };
  /** Requests whose folios are locked. */
  readonly #locked = new Map<object, { start: number; end: number }>();
  /** Pages that a reader would be shown without asking. */
  readonly cached = new Set<number>();
  #changed: (() => void)[] = [];

  constructor(client: TestClient, file: { fid: Fid; fh: unknown }) {
    this.#client = client;
    this.#file = file as never;
    client.kernel.onDropPages = (fid, ranges) =>
      fid === file.fid
        ? this.#drop(ranges ?? [{ start: 0, end: Number.MAX_SAFE_INTEGER }])
        : Promise.resolve();
  }

  async read(page: number): Promise<Buffer> {
    return await this.#locking(page, async () => {
      const data = await this.#client.read(this.#file, page * PAGE, PAGE);
      this.cached.add(page);
      return data;
    });
  }

  async write(page: number, value: number): Promise<void> {
    await this.#locking(page, async () => {
      await this.#client.write(this.#file, page * PAGE, Buffer.alloc(PAGE, value));
      this.cached.add(page);
    });
  }

  async #locking<T>(page: number, run: () => Promise<T>): Promise<T> {
    const key = {};
    this.#locked.set(key, { start: page * PAGE, end: (page + 1) * PAGE });
    try {
      return await run();
    } finally {
      this.#locked.delete(key);
      for (const wake of this.#changed.splice(0)) wake();
    }
  }

  /** Page by page, as invalidate_inode_pages2_range does: each waits for its folio. */
  async #drop(ranges: readonly { start: number; end: number }[]): Promise<void> {
    for (const { start, end } of ranges) {
      const overlaps = (lock: { start: number; end: number }) => lock.start < end && lock.end > start;
      while ([...this.#locked.values()].some(overlaps)) {
        await new Promise<void>((resolve) => this.#changed.push(resolve));
      }
      for (const page of [...this.cached]) {
        if (page * PAGE < end && (page + 1) * PAGE > start) this.cached.delete(page);
      }
      await this.#client.time.turn();
    }
  }
}

test('two clients that write and read the same pages through their kernels never block each other', async (t) => {
  const world = await clientWorld(t, { lockTimeoutMs: 5000 });
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f', O_RDWR);
  await a.write(fa, 0, Buffer.alloc(8 * PAGE));
  const fb = await b.open('f', O_RDWR);
  const kernels = [new FolioKernel(a, fa), new FolioKernel(b, fb)];
  const work = kernels.map(async (kernel, which) => {
    for (let i = 0; i < 60; i += 1) {
      await Promise.all([kernel.read(i % 8), kernel.write((i * 3 + which) % 8, i), kernel.read((i + 4) % 8)]);
    }
  });
  await world.time.within('both are done', Promise.all(work), 60_000);
  assert.deepEqual([a.target.history.at(-1)?.state, b.target.history.at(-1)?.state], ['FULL', 'FULL']);
});

test('a reader in a loop cannot keep a lock from being given back, and keeps no old page', async (t) => {
  const world = await clientWorld(t, { lockTimeoutMs: 5000 });
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f', O_WRONLY);
  await a.write(fa, 0, Buffer.alloc(4 * PAGE, 1));
  const fb = await b.open('f', O_RDONLY);
  const kernel = new FolioKernel(b, fb);
  let stop = false;
  let last = 0;
  const reader = (async () => {
    for (let i = 0; !stop; i += 1) {
      // Only pages that the kernel does not have cause a READ.
      const page = i % 4;
      if (!kernel.cached.has(page)) last = (await kernel.read(page))[0] ?? 0;
      await world.time.turn();
    }
  })();
  for (let value = 2; value < 20; value += 1) {
    await world.time.within('write', a.write(fa, 0, Buffer.alloc(4 * PAGE, value)), 5000);
    const wanted = value;
    await world.time.until(`the reader sees ${value}`, () => last === wanted);
  }
  stop = true;
  await reader;
});

test('what is read past the end of a file while its lock is given back is dropped with it', async (t) => {
  const world = await clientWorld(t, { lockTimeoutMs: 5000 });
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f', O_WRONLY);
  await a.write(fa, 0, Buffer.alloc(10, 1));
  const fb = await b.open('f', O_RDONLY);
  assert.equal((await b.read(fb, 0, 2 * PAGE)).length, 10);
  const dropped: string[] = [];
  let letGo = (): void => undefined;
  b.kernel.onDropPages = (_fid, ranges) => {
    dropped.push(JSON.stringify(ranges));
    return dropped.length > 1 ? Promise.resolve() : new Promise((resolve) => (letGo = resolve));
  };
  const appended = a.write(fa, 10, Buffer.alloc(10, 2));
  await world.time.until('the pages are being dropped', () => dropped.length === 1);
  // The kernel keeps a page of zeros for what it gets nothing of.
  assert.equal((await b.read(fb, PAGE, PAGE)).length, 0);
  assert.equal((await b.read(fb, 0, PAGE)).length, 10);
  letGo();
  await world.time.within('append', appended, 5000);
  assert.deepEqual(dropped.slice(1), [JSON.stringify([{ start: 0, end: 2 * PAGE }])]);
});

test('a shutdown drains a client whose kernel never stops writing', async (t) => {
  const world = await clientWorld(t, { drainTimeoutMs: 10_000 });
  const a = await world.client('a');
  const f = await a.create('f', O_WRONLY);
  const kernel = new FolioKernel(a, f);
  let stop = false;
  let written = 0;
  const writer = (async () => {
    while (!stop) {
      await kernel.write(written % 64, written % 256);
      written += 1;
      if (written % 8 === 0) await world.time.sleep(1);
    }
  })();
  await world.time.until('it writes', () => written > 100);
  assert.equal(
    await world.time.within('shutdown', world.server?.shutdown() ?? Promise.reject(), 5000),
    'clean',
  );
  assert.equal(a.target.gate, 'CLOSED');
  await world.start({ softwareVersion: '2.0.0' });
  const before = written;
  await world.time.until('it writes again', () => written > before + 10);
  stop = true;
  await writer;
  assert.equal(
    a.target.history.some(({ state }) => state === 'EVICTED'),
    false,
  );
});

test('an eviction fails the requests that hold folios, so that the kernel can forget the file', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f', O_RDWR);
  await a.write(f, 0, Buffer.alloc(PAGE, 1));
  const kernel = new FolioKernel(a, f);
  a.kernel.onDropPages = (
    (drop) => (fid, ranges) =>
      drop?.(fid, ranges) ?? Promise.resolve()
  )(a.kernel.onDropPages);
  await kernel.read(0);
  await world.server?.stop();
  await world.time.until('it noticed', () => a.target.gate === 'CLOSED');
  const stuck = kernel.write(5, 5).then(
    () => 'written',
    (error: { code?: string }) => error.code,
  );
  await world.start({ softwareVersion: '2.0.0', forceStart: true });
  assert.equal(await world.time.within('the write fails', stuck, 5000), 'EIO');
  await world.time.until('the kernel has dropped the file', () => kernel.cached.size === 0);
});
