/** When dirty data goes to the server, and what happens when it cannot. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Deferred } from '../../../../src/base/wait.js';
import { ScriptedTarget } from '../../../fixtures/scripted_target.js';
import { clientWorld, errnoOf, O_RDWR, O_WRONLY, scriptedWorld } from '../../../worlds/client_world.js';

test('dirty data goes out by itself within little more than a second', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  await a.write(f, 0, 'small');
  assert.equal(a.target.dirtyBytes, 5);
  await world.time.until('it is written', () => a.target.dirtyBytes === 0, 2000);
});

test('a piece of a file that is written all the time goes out as if the rest of the file stood still', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  await a.write(f, 3 << 20, 'piece');
  const granule = Buffer.alloc(1 << 20, 1);
  for (let writes = 0; writes < 24; writes++) {
    await a.write(f, 0, granule);
    await world.time.sleep(50);
  }
  const chunks = await world.server?.target?.store.data.read(f.fid, 3 << 20, 5);
  assert.equal(Buffer.concat(chunks ?? []).toString(), 'piece');
});

test('what was paid for blocks that a truncate drops is not paid for any more when the rest is written', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const f = await a.create('f');
  await b.lookup('f');
  const forgets = new Deferred<void>();
  b.kernel.dropAttrs = () => forgets.promise;
  await a.write(f, 0, Buffer.alloc(2 * 4096, 1));
  // Drops the second block, writes the first one back, and then waits for the lock of b.
  const cut = a.setattr(f.fid, { sizeBytes: 4096 });
  await world.time.until('the rest is written', () => a.target.dirtyBytes === 0);
  a.check();
  forgets.resolve();
  await cut;
});

test('close starts the write-back and does not wait for it', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  await a.write(f, 0, 'small');
  assert.equal(a.fs.flush(a.op, f.fh, '1'), undefined);
  await world.time.until('it is written', () => a.target.dirtyBytes === 0, 500);
});

test('a full device: write(2) itself fails with ENOSPC, and unlinking makes room again', async (t) => {
  const world = await clientWorld(t, {}, { dataBytes: 24 << 20 });
  const a = await world.client('a');
  const f = await a.create('f', O_WRONLY);
  const piece = Buffer.alloc(1 << 20, 7);
  let errors = 0;
  let written = 0;
  for (let i = 0; i < 40; i += 1) {
    const errno = await errnoOf(() => a.write(f, written, piece));
    if (errno === 'ENOSPC') errors += 1;
    else if (errno === 'no error') written += piece.length;
    else assert.fail(errno);
  }
  assert.ok(errors > 5, `${errors} errors`);
  await errnoOf(() => a.fs.fsync(a.op, f.fh));
  await a.close(f).catch(() => undefined);
  await a.unlink('f');
  const g = await a.create('g', O_RDWR);
  await world.time.until('there is room again', async () => {
    if ((await errnoOf(() => a.write(g, 0, piece))) !== 'no error') return false;
    return (await errnoOf(() => a.fs.fsync(a.op, g.fh))) === 'no error';
  });
  assert.equal((await a.read(g, 0, 4))[3], 7);
});

test('a writer that is faster than the server waits, within the bounds of the cache, and can be interrupted', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a', { cacheBytes: 16 << 20 });
  const f = await a.create('f', O_WRONLY);
  const piece = Buffer.alloc(1 << 20);
  let most = 0;
  for (let i = 0; i < 40; i += 1) {
    await a.write(f, i * piece.length, piece);
    most = Math.max(most, a.target.dirtyBytes);
  }
  assert.ok(most <= 8 << 20, `${most} bytes were dirty`);
  a.breakConnection();
  await world.server?.stop();
  await world.time.until(
    'the server is gone',
    () => a.target.importState === 'DISCON' || a.target.importState === 'CONNECTING',
  );
  const { op, interrupt } = a.interruptible();
  const options = { append: false, writeback: false, sync: false, killSuidgid: false };
  const waits = errnoOf(() => a.fs.write(op, f.fh, f.fid, 0, piece, options));
  await world.time.turn();
  interrupt();
  assert.equal(await world.time.within('interrupted', waits, 1000), 'EINTR');
  await world.start();
});

test('O_SYNC writes are on the server when they return', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f', O_WRONLY);
  const options = { append: false, writeback: false, sync: true, killSuidgid: false };
  await a.fs.write(a.op, f.fh, f.fid, 0, Buffer.from('sync'), options);
  assert.deepEqual([a.target.dirtyBytes, world.server?.target?.store.inode(f.fid)?.sizeBytes], [0, 4]);
});

test('fallocate, lseek and copy_file_range see what is only in the cache', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  const g = await a.create('g');
  await a.write(f, 65536, 'data');
  assert.deepEqual(
    [await a.fs.seek(a.op, f.fh, 0, 'data'), await a.fs.seek(a.op, f.fh, 65536, 'hole')],
    [65536, 65540],
  );
  assert.equal(await a.fs.copyRange(a.op, f.fh, 65536, g.fh, 0, 4), 4);
  assert.equal(await a.text(g), 'data');
  await a.fs.fallocate(a.op, f.fh, 3, 65536, 2);
  assert.equal((await a.read(f, 65536, 10)).toString(), '\0\0ta');
  await a.fs.fallocate(a.op, f.fh, 0, 0, 100_000);
  assert.equal(await a.size(f.fid), 100_000);
});

test('close waits for what was stored into a mapping without promised space, while the server is there', async (t) => {
  const world = await clientWorld(t, {}, { dataBytes: 24 << 20 });
  const a = await world.client('a');
  const filler = await a.create('filler');
  let filled = 0;
  for (const step of [1 << 20, 4096]) {
    while ((await errnoOf(() => a.fs.fallocate(a.op, filler.fh, 0, filled, step))) === 'no error')
      filled += step;
  }
  const f = await a.create('f');
  await a.fs.setattr(a.op, f.fid, { sizeBytes: 1 << 20, killSuidgid: false });
  const reader = await a.fs.open(a.op, f.fid, 0);
  const mapped = { append: false, writeback: true, sync: false, killSuidgid: false };
  const store = async (): Promise<unknown> =>
    a.fs.write(a.op, undefined, f.fid, 8192, Buffer.alloc(4096, 1), mapped);
  const close = (op = a.op): Promise<string> => errnoOf(async () => a.fs.flush(op, f.fh, '1'));
  await store();
  assert.deepEqual([await close(), await close()], ['ENOSPC', 'no error']);
  const fsync = (fh: typeof reader): Promise<string> => errnoOf(async () => a.fs.fsync(a.op, fh));
  assert.deepEqual([await fsync(reader), await fsync(reader)], ['ENOSPC', 'no error']);

  await store();
  const { op, interrupt } = a.interruptible();
  const interrupted = close(op);
  interrupt();
  assert.equal(await world.time.within('interrupted', interrupted, 1000), 'EINTR');
  assert.equal(await fsync(f.fh), 'ENOSPC');

  await store();
  a.breakConnection();
  await world.server?.stop();
  assert.equal(await world.time.within('not held up', close(), 5000), 'no error');
  await world.start();
  assert.equal(await fsync(f.fh), 'ENOSPC');
});

test('fallocate takes what is promised to its client and not used, and leaves dirty data its space', async (t) => {
  const world = await clientWorld(t, {}, { dataBytes: 24 << 20 });
  const a = await world.client('a');
  const other = await world.client('other');
  const [f, g, filler] = [await a.create('f'), await other.create('g'), await a.create('filler')];
  const piece = Buffer.alloc(512 << 10, 1);
  let filled = 0;
  for (const step of [1 << 20, 64 << 10, 4096]) {
    for (;;) {
      // Dirty again and again, so that some of it is at any time.
      await a.write(f, 0, piece);
      await other.write(g, 0, piece);
      const errno = await errnoOf(() => a.fs.fallocate(a.op, filler.fh, 0, filled, step));
      if (errno !== 'no error') {
        assert.equal(errno, 'ENOSPC');
        break;
      }
      filled += step;
    }
  }
  await a.fs.fsync(a.op, f.fh);
  await other.fs.fsync(other.op, g.fh);
  const left = world.server?.target?.store.availableBytes() ?? 0;
  assert.ok(left - (world.server?.target?.grants.promisedBytes ?? 0) < 4096, `${left} bytes are left`);
});

test('a write that nothing is promised for answers for itself; fsync tells what was lost before its handle', async (t) => {
  const target = new ScriptedTarget();
  target.grantBytes = 4096;
  const world = scriptedWorld(t, [target]);
  const a = await world.client('a');
  const first = await a.create('f');
  target.failsWrites = true;
  await a.write(first, 0, Buffer.alloc(4096, 1));
  a.fs.release(first.fh, undefined);
  await world.time.until('the WRITE has failed', () => target.of('WRITE').length > 0);
  await world.time.until('the client knows', () => a.target.dirtyBytes === 0);
  target.failsWrites = false;
  const again = await a.open('f', O_RDWR);
  await a.write(again, 0, Buffer.alloc(4096, 2));
  await assert.rejects(async () => a.fs.fsync(a.op, again.fh), { code: 'EIO' });
  await a.fs.fsync(a.op, again.fh);
});
