/** A client that another process takes over, with real servers and in virtual time. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ClientStateMessage } from '../../../../src/wire/mount_state.js';
import { MountState } from '../../../../src/wire/mount_state.js';
import { decode, encode } from '../../../../src/wire/schema.js';
import {
  type ClientWorld,
  clientWorld,
  errnoOf,
  O_RDWR,
  type TestClient,
} from '../../../worlds/client_world.js';

const LOCK = {
  kind: 'posix',
  owner: '00000000000000aa',
  pid: 1,
  exclusive: true,
  start: 0,
  end: undefined,
} as const;

const KERNEL = {
  minor: 45,
  flagsLow: 1,
  flagsHigh: 2,
  maxWriteBytes: 1 << 20,
  maxReadaheadBytes: 1 << 17,
  maxBackground: 128,
  congestionThreshold: 96,
  nodes: Buffer.alloc(0),
  lockOwners: [],
  requests: [],
};

/** Through the bytes that travel. */
function travelled(client: ClientStateMessage): ClientStateMessage {
  return decode(MountState, encode(MountState, { client, kernel: KERNEL })).client;
}

async function leave(client: TestClient): Promise<ClientStateMessage> {
  await client.fs.handover.leave(new AbortController().signal);
  client.check();
  return travelled(client.fs.handover.state());
}

async function handOver(world: ClientWorld, client: TestClient): Promise<TestClient> {
  return world.successor(client, { kind: 'handed over', state: await leave(client) });
}

test('handles, unlinked files, locks and names go on in the next process; the server sees one client', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const kept = await a.create('kept');
  const gone = await a.create('gone');
  const dir = await a.mkdir('dir');
  const dirFh = await a.fs.open(a.op, dir, 0);
  await a.write(kept, 0, 'dirty before');
  await a.write(gone, 0, 'unlinked');
  await a.unlink('gone');
  await a.fs.setLock(a.op, kept.fh, LOCK, false);
  const next = await handOver(world, a);
  assert.deepEqual(
    [await next.text(kept), await next.text(gone), await next.names()],
    ['dirty before', 'unlinked', ['dir', 'kept']],
  );
  assert.deepEqual((await next.fs.readdir(next.op, dirFh, 0, 10, false)).entries, []);
  const theirs = await b.open('kept', O_RDWR);
  assert.equal(await errnoOf(() => b.fs.setLock(b.op, theirs.fh, LOCK, false)), 'EAGAIN');
  await next.fs.unlock(next.op, kept.fh, LOCK);
  await b.fs.setLock(b.op, theirs.fh, LOCK, false);
  // A number that it gives out now is no number from before.
  const more = await next.create('more');
  assert.ok(more.fh > Math.max(kept.fh, gone.fh, dirFh));
  assert.notEqual(more.fid, gone.fid);
  const clients = world.server?.status().clients ?? [];
  assert.deepEqual(clients.map(({ softwareVersion }) => softwareVersion).sort(), ['1.0.0', '2.0.0']);
  next.check();
});

test('calls wait at the gate of the process that leaves, and go on if it stays', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const file = await a.create('f');
  await a.fs.handover.leave(new AbortController().signal);
  const waits = [a.write(file, 0, 'after'), a.mkdir('waits')];
  await world.time.turn();
  assert.deepEqual([a.target.gate, a.target.parked], ['CLOSED', 2]);
  const state = travelled(a.fs.handover.state());
  assert.equal(a.target.importState, 'DISCON');
  await world.time.sleep(5000);
  assert.equal(a.target.importState, 'DISCON', 'it does not connect by itself');
  // The other process has connected, and has used calls, before it fails.
  const failed = await world.client('failed', {}, { kind: 'handed over', state });
  await failed.mkdir('theirs');
  world.forget(failed);
  a.fs.handover.stay(true);
  await Promise.all(waits);
  assert.deepEqual([await a.text(file), await a.names()], ['after', ['f', 'theirs', 'waits']]);
  // The last connection is that of this process.
  failed.offline();
  a.check();
});

test('a lock in line keeps its place in the next process, and is granted there', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const ours = await a.create('f');
  const theirs = await b.open('f', O_RDWR);
  await b.fs.setLock(b.op, theirs.fh, LOCK, false);
  const other = { ...LOCK, owner: '00000000000000bb' };
  let isGranted = false;
  void Promise.resolve(a.fs.setLock(a.op, ours.fh, LOCK, true)).then(() => {
    isGranted = true;
  });
  await world.time.turn();
  const next = await handOver(world, a);
  // The next process begins the kernel's request anew, behind one that came later.
  const later = Promise.resolve(next.fs.setLock(next.op, ours.fh, other, true));
  const again = Promise.resolve(next.fs.setLock(next.op, ours.fh, LOCK, true));
  await world.time.turn();
  await b.fs.unlock(b.op, theirs.fh, LOCK);
  await again;
  assert.equal(isGranted, false, 'the process before has nothing to do with it');
  await next.fs.unlock(next.op, ours.fh, LOCK);
  await later;
  next.check();
});

test('a lock whose grant came to a process that failed is granted to the one that stays', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const ours = await a.create('f');
  const theirs = await b.open('f', O_RDWR);
  await b.fs.setLock(b.op, theirs.fh, LOCK, false);
  const granted = Promise.resolve(a.fs.setLock(a.op, ours.fh, LOCK, true));
  await world.time.turn();
  const state = await leave(a);
  const failed = await world.client('failed', {}, { kind: 'handed over', state });
  await b.fs.unlock(b.op, theirs.fh, LOCK);
  await world.time.sleep(100);
  world.forget(failed);
  a.fs.handover.stay(false);
  await granted;
  assert.equal(await errnoOf(() => b.fs.setLock(b.op, theirs.fh, LOCK, false)), 'EAGAIN');
  failed.offline();
  a.check();
});

test('a failed write-back is reported once, whichever process is asked', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const file = await a.create('f');
  const state = await leave(a);
  const failure = { code: 'ENOSPC', message: 'no space' };
  const [handle, ...others] = state.handles;
  assert.ok(handle !== undefined && others.length === 0);
  const next = await world.successor(a, {
    kind: 'handed over',
    state: { ...state, failures: [failure], handles: [{ ...handle, writeFailure: 0 }] },
  });
  assert.deepEqual(
    [
      await errnoOf(() => next.fs.fsync(next.op, file.fh)),
      await errnoOf(() => next.fs.fsync(next.op, file.fh)),
    ],
    ['ENOSPC', 'no error'],
  );
});

test('no handover while the server is away, or shuts down; and a shutdown that comes meanwhile is not forgotten', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const signal = new AbortController().signal;
  await world.upgrade('2.0.0', async () => {
    assert.equal(await errnoOf(() => a.fs.handover.leave(signal)), 'EAGAIN');
    a.fs.handover.stay(false);
  });
  await a.mkdir('after');
  await a.fs.handover.leave(signal);
  const down = world.upgrade('3.0.0');
  await world.time.sleep(100);
  a.fs.handover.stay(false);
  await down;
  await a.mkdir('after that');
  assert.deepEqual([a.target.serverVersion, a.target.evictions.length], ['3.0.0', 0]);
  a.check();
});

test('an attempt that takes too long leaves the client as it was', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const file = await a.create('f');
  await a.write(file, 0, 'dirty');
  a.lose('answers');
  const patience = new AbortController();
  const leaving = errnoOf(() => a.fs.handover.leave(patience.signal));
  await world.time.sleep(2000);
  patience.abort();
  await leaving;
  a.fs.handover.stay(false);
  a.breakConnection();
  await a.mkdir('after');
  assert.equal(await a.text(file), 'dirty');
  a.check();
});

test('after the death of a process its session ends, its handles answer EIO, and a new session begins', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const file = await a.create('f');
  await a.write(file, 0, 'durable');
  await a.fs.fsync(a.op, file.fh);
  await a.write(file, 0, 'dirty..');
  await a.fs.setLock(a.op, file.fh, LOCK, false);
  const client = a.fs.handover.orphan();
  a.offline();
  const next = await world.successor(a, { kind: 'dead', client });
  assert.deepEqual(
    [await errnoOf(() => next.read(file, 0, 10)), await errnoOf(() => next.fs.fsync(next.op, file.fh))],
    ['EIO', 'EIO'],
  );
  const again = await next.open('f', O_RDWR);
  assert.ok(again.fh > file.fh);
  assert.equal(await next.text(again), 'durable');
  const theirs = await b.open('f', O_RDWR);
  await b.fs.setLock(b.op, theirs.fh, LOCK, false);
  assert.equal(world.server?.status().clients.length, 2);
  // And once more.
  const later = await world.successor(next, { kind: 'dead', client: next.fs.handover.orphan() });
  assert.equal(await errnoOf(() => later.read(again, 0, 10)), 'EIO');
  later.check();
  next.offline();
});
