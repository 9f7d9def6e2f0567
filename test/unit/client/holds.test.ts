/** Inodes without a name: kept while the kernel of any client refers to them, then gone from the server and from all clients. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import { Unlink } from '../../../src/wire/meta.js';
import {
  type ClientWorld,
  clientWorld,
  errnoOf,
  O_RDONLY,
  O_WRONLY,
  type TestClient,
} from '../../worlds/client_world.js';

const MIB = 1 << 20;

function isThere(world: ClientWorld, fid: Fid): boolean {
  return world.server?.target?.store.hasInode(fid) === true;
}

function isHeld(world: ClientWorld, fid: Fid): boolean {
  return world.server?.target?.holds.isHeld(fid) === true;
}

/** A closed file that the client's kernel refers to. */
async function file(client: TestClient, name: string, content: string): Promise<Fid> {
  const made = await client.create(name);
  await client.write(made, 0, content);
  await client.close(made);
  client.kernel.refers.add(made.fid);
  return made.fid;
}

function forget(client: TestClient, fid: Fid): void {
  client.kernel.refers.delete(fid);
  client.fs.forgotten(fid);
}

async function content(client: TestClient, fid: Fid): Promise<string> {
  const fh = await client.fs.open(client.op, fid, O_RDONLY);
  const text = await client.text({ fid, fh });
  await client.close({ fh });
  return text;
}

test('an unlinked file that a kernel refers to is opened, changed and read, and goes when the kernel forgets it', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fid = await file(a, 'f', 'text');
  await b.unlink('f');
  await world.time.until('it is held', () => isHeld(world, fid));
  await a.setattr(fid, { mode: 0o100600 });
  assert.equal(await content(a, fid), 'text');
  const { attr } = await a.fs.getattr(a.op, fid);
  assert.deepEqual([attr.nlink, attr.mode & 0o777, isHeld(world, fid)], [0, 0o600, true]);
  assert.equal(await errnoOf(() => a.fs.link(a.op, fid, ROOT_FID, 'g' as never)), 'ENOENT');
  forget(a, fid);
  await world.time.until('it is destroyed', () => !isThere(world, fid));
  assert.equal(await errnoOf(() => a.fs.open(a.op, fid, O_RDONLY)), 'ESTALE');
});

test('what one client has not written back of a file that the other unlinks is read through a hold of either', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fid = await file(a, 'f', 'not written back');
  forget(a, fid);
  assert.equal((await b.lookup('f'))?.attr.fid, fid);
  b.kernel.refers.add(fid);
  await b.unlink('f');
  await world.time.until('it is held', () => isHeld(world, fid));
  assert.equal(await content(b, fid), 'not written back');
});

test('a file is kept until the kernels of all clients have forgotten it', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fid = await file(a, 'f', 'x');
  b.kernel.refers.add(fid);
  await a.unlink('f');
  await world.time.until('it is held', () => isHeld(world, fid));
  forget(a, fid);
  assert.equal(await content(b, fid), 'x');
  forget(b, fid);
  await world.time.until('it is destroyed', () => !isThere(world, fid));
});

test('a held file goes with the client that leaves, and with one that is evicted', async (t) => {
  const world = await clientWorld(t);
  for (const how of ['leaves', 'is evicted']) {
    const a = await world.client(how);
    const b = await world.client('b');
    const fid = await file(a, 'f', 'x');
    await b.unlink('f');
    await world.time.until('it is held', () => isHeld(world, fid));
    if (how === 'leaves') await a.unmount();
    else world.server?.evict(how, 'by the test');
    await world.time.until(`it is destroyed when its client ${how}`, () => !isThere(world, fid));
  }
});

for (const how of ['crash', 'upgrade'] as const) {
  test(`a held file lives through ${how === 'crash' ? 'a crash' : 'an upgrade'} of the server`, async (t) => {
    const world = await clientWorld(t);
    const a = await world.client('a');
    const b = await world.client('b');
    const fid = await file(a, 'f', 'text');
    const other = await file(a, 'g', 'forgotten meanwhile');
    await b.unlink('f');
    await b.unlink('g');
    await world.time.until('they are held', () => isHeld(world, fid) && isHeld(world, other));
    const meanwhile = async (): Promise<void> => forget(a, other);
    await (how === 'crash' ? world.crash(meanwhile) : world.upgrade('2.0.0', meanwhile));
    assert.equal(await content(a, fid), 'text');
    await world.time.until(
      'one is held again, the other gone',
      () => isHeld(world, fid) && !isThere(world, other),
    );
    assert.equal(await content(a, fid), 'text');
    forget(a, fid);
    await world.time.until('it is destroyed', () => !isThere(world, fid));
  });
}

test('a broken connection loses no hold and no end of one', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const [kept, left] = [await file(a, 'kept', 'x'), await file(a, 'left', 'y')];
  await b.unlink('kept');
  await b.unlink('left');
  // The question is on its way, or comes next.
  a.breakConnection();
  await world.time.until('they are held', () => isHeld(world, kept) && isHeld(world, left));
  forget(a, left);
  a.breakConnection();
  await world.time.until('it is destroyed', () => !isThere(world, left));
  assert.equal(await content(a, kept), 'x');
});

test('space that only holds use is there for who needs it: ENOSPC never comes from a hold', async (t) => {
  const world = await clientWorld(t, {}, { dataBytes: 40 << 20 });
  const a = await world.client('a');
  const b = await world.client('b');
  const piece = Buffer.alloc(MIB, 'x');
  const fill = async (name: string): Promise<{ fid: Fid; bytes: number }> => {
    const made = await b.create(name, O_WRONLY);
    let bytes = 0;
    for (const failed = { is: false }; !failed.is; ) {
      await b.write(made, bytes, piece).then(
        (written) => {
          bytes += written;
        },
        (error: { code: string }) => {
          assert.equal(error.code, 'ENOSPC');
          failed.is = true;
        },
      );
    }
    await b.close(made);
    return { fid: made.fid, bytes };
  };
  const probe = await fill('probe');
  await b.unlink('probe');
  await world.time.until('its space is free', () => !isThere(world, probe.fid));
  const big = await a.create('big', O_WRONLY);
  for (let at = 0; at < probe.bytes / 2; at += MIB) await a.write(big, at, piece);
  await a.fs.fsync(a.op, big.fh);
  await a.close(big);
  a.kernel.refers.add(big.fid);
  await b.unlink('big');
  await world.time.until('it is held', () => isHeld(world, big.fid));
  const again = await fill('again');
  assert.ok(again.bytes > probe.bytes * 0.9, `${again.bytes} of ${probe.bytes} bytes`);
  assert.equal(isThere(world, big.fid), false);
});

test('fallocate takes the space of a held file', async (t) => {
  const world = await clientWorld(t, {}, { dataBytes: 64 << 20 });
  const a = await world.client('a');
  const big = await a.create('big', O_WRONLY);
  await a.fs.fallocate(a.op, big.fh, 0, 0, 40 * MIB);
  await a.close(big);
  a.kernel.refers.add(big.fid);
  await a.unlink('big');
  await world.time.until('it is held', () => isHeld(world, big.fid));
  const next = await a.create('next', O_WRONLY);
  await a.fs.fallocate(a.op, next.fh, 0, 0, 40 * MIB);
  assert.equal(isThere(world, big.fid), false);
});

test('a thousand held files give a metadata device that fills up their space, and it takes no harm', async (t) => {
  // Of lmdb: a commit that goes past the end of the device fails.
  const world = await clientWorld(t, {}, { meta: 'lmdb', metaBytes: 16 << 20, dataBytes: 16 << 20 });
  const a = await world.client('a');
  const b = await world.client('b');
  const nameOf = (index: number): string => String(index).padEnd(200, 'n');
  const make = async (index: number): Promise<Fid> => {
    const made = await b.create(nameOf(index), O_WRONLY);
    await b.close(made);
    return made.fid;
  };
  const held: Fid[] = [];
  for (let index = 0; index < 1000; index += 1) held.push(await make(index));
  for (const fid of held) a.kernel.refers.add(fid);
  for (let index = 0; index < held.length; index += 1) await b.unlink(nameOf(index));
  await world.time.until('they are held', () => held.every((fid) => isHeld(world, fid)));
  await assert.rejects(
    async () => {
      for (let index = 1000; ; index += 1) await make(index);
    },
    { code: 'ENOSPC' },
  );
  assert.deepEqual(
    held.filter((fid) => isThere(world, fid)),
    [],
  );
  assert.equal(world.server?.failure, undefined);
});

test('locks and states of files that another client removes go from the client that made them', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const before = [a.target.locks, a.fs.status().cache.files];
  const fids: Fid[] = [];
  for (let index = 0; index < 200; index += 1) fids.push(await file(a, `f${index}`, 'dirty'));
  assert.ok(a.fs.status().cache.files >= 200);
  for (const [index, fid] of fids.entries()) {
    // Half of them the kernel has forgotten before.
    if (index % 2 === 0) forget(a, fid);
    await b.unlink(`f${index}`);
  }
  for (const fid of fids) forget(a, fid);
  await world.time.until('nothing is left of them', () => {
    const { cache, targets } = a.fs.status();
    const dirtyBytes = targets[0]?.dirtyBytes ?? 0;
    return cache.files <= (before[1] ?? 0) && a.target.locks <= (before[0] ?? 0) + 1 && dirtyBytes === 0;
  });
  assert.equal(
    fids.some((fid) => isThere(world, fid)),
    false,
  );
});

test('a client that does not know of holds is not asked: without another one an inode is destroyed at once', async (t) => {
  const world = await clientWorld(t);
  const old = world.servers.client('old');
  old.features = 7;
  await old.connect();
  await old.activate();
  const { attr } = await old.create('f');
  await old.call(Unlink, { parent: ROOT_FID, name: 'f' as Name, directory: false });
  const { fid } = attr;
  assert.equal(isThere(world, fid), false);
});
