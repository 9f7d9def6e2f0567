/** What was waiting when the server evicted this client does not go on in the next session as if nothing had happened. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { Fh, Fid } from '../../../src/base/ids.js';
import { type ClientWorld, clientWorld, type TestClient } from '../../worlds/client_world.js';

const FALLOC_KEEP_SIZE = 1;
const BLOCK = 4096;
const EVICTED = { code: 'EIO', message: /evicted/ };

type File = { readonly fid: Fid; readonly fh: Fh };

interface Stage {
  readonly world: ClientWorld;
  readonly a: TestClient;
  readonly file: File;
}

async function stage(t: TestContext): Promise<Stage> {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const file = await a.create('f');
  await a.write(file, 0, Buffer.alloc(4 * BLOCK, 1));
  await a.fs.fsync(a.op, file.fh);
  return { world, a, file };
}

/** The server evicts the client, which comes back as a new one. */
async function evict({ world, a }: Stage): Promise<void> {
  world.server?.evict('a', 'the test wants it');
  await world.time.until(
    'a is in again',
    () => a.target.evictions.length === 1 && a.target.importState === 'FULL',
  );
}

/** Holds the file as a whole until the client is evicted: its answer is lost. */
function holdWhole({ a, file }: Stage): Promise<unknown> {
  a.lose('answers');
  const held = Promise.resolve(a.fs.fallocate(a.op, file.fh, FALLOC_KEEP_SIZE, 0, BLOCK));
  return assert.rejects(held, EVICTED);
}

/** Data that is on its way until the client is evicted: its answer is lost. */
async function holdFlush({ a, file }: Stage): Promise<void> {
  a.lose('answers');
  await a.write(file, 0, Buffer.alloc(BLOCK, 2));
}

const THROUGH_HANDLE: readonly [string, 'whole' | 'flush', (stage: Stage) => unknown][] = [
  ['fallocate', 'whole', ({ a, file }) => a.fs.fallocate(a.op, file.fh, FALLOC_KEEP_SIZE, 0, 2 * BLOCK)],
  ['fallocate', 'flush', ({ a, file }) => a.fs.fallocate(a.op, file.fh, FALLOC_KEEP_SIZE, 0, 2 * BLOCK)],
  ['lseek', 'flush', ({ a, file }) => a.fs.seek(a.op, file.fh, 0, 'hole')],
  ['copy_file_range', 'whole', ({ a, file }) => a.fs.copyRange(a.op, file.fh, 0, file.fh, 2 * BLOCK, BLOCK)],
  ['copy_file_range', 'flush', ({ a, file }) => a.fs.copyRange(a.op, file.fh, 0, file.fh, 2 * BLOCK, BLOCK)],
  [
    'ftruncate',
    'whole',
    ({ a, file }) => a.fs.setattr(a.op, file.fid, { fh: file.fh, sizeBytes: 1, killSuidgid: false }),
  ],
  [
    'a change of times through a handle',
    'flush',
    ({ a, file }) => a.fs.setattr(a.op, file.fid, { fh: file.fh, mtime: 'now', killSuidgid: false }),
  ],
];

for (const [call, waitsFor, run] of THROUGH_HANDLE) {
  const what = waitsFor === 'whole' ? 'another change of the file' : 'dirty data to be written';
  test(`${call} that waits for ${what} when its client is evicted fails with EIO`, async (t) => {
    const set = await stage(t);
    const held = waitsFor === 'whole' ? holdWhole(set) : holdFlush(set);
    const waiting = assert.rejects(Promise.resolve(run(set)), EVICTED);
    await evict(set);
    await Promise.all([held, waiting]);
    const { attr } = (await set.a.lookup('f')) ?? {};
    assert.equal(attr?.sizeBytes, 4 * BLOCK);
  });
}

test('ftruncate through a handle that an eviction killed fails with EIO; truncate by name works', async (t) => {
  const set = await stage(t);
  const { a, file } = set;
  await evict(set);
  const change = { sizeBytes: 1, killSuidgid: false };
  await assert.rejects(async () => a.fs.setattr(a.op, file.fid, { ...change, fh: file.fh }), EVICTED);
  assert.equal((await a.fs.setattr(a.op, file.fid, change)).attr.sizeBytes, 1);
});

test('truncate by name that waits when its client is evicted is done in the next session', async (t) => {
  const set = await stage(t);
  const { a, file } = set;
  const held = holdWhole(set);
  const waiting = a.fs.setattr(a.op, file.fid, { sizeBytes: 1, killSuidgid: false });
  await evict(set);
  await held;
  assert.equal((await waiting).attr.sizeBytes, 1);
});

test('what the kernel writes back of a mapping does not dirty a file after an eviction', async (t) => {
  const set = await stage(t);
  const { a, file } = set;
  const mapped = { append: false, writeback: true, sync: false, killSuidgid: false };
  const held = holdWhole(set);
  const written = a.fs.write(a.op, undefined, file.fid, 0, Buffer.alloc(BLOCK, 9), mapped);
  const failed = assert.rejects(Promise.resolve(written), EVICTED);
  await evict(set);
  await Promise.all([held, failed]);
  assert.equal(a.target.dirtyBytes, 0);
  assert.deepEqual(await a.read(await a.open('f'), 0, BLOCK), Buffer.alloc(BLOCK, 1));
});
