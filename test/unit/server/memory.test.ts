import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import type { Fid } from '../../../src/base/ids.js';
import { Lifetime } from '../../../src/base/lifetime.js';
import type { Frame } from '../../../src/rpc/api.js';
import { hostOf, WaitingRequests } from '../../../src/rpc/waiting_requests.js';
import type { ClientExport } from '../../../src/server/export/export.js';
import { frameBytes, KeptFrames, keptCopy } from '../../../src/server/export/kept_frames.js';
import { Admission, type FrameSource } from '../../../src/server/session/admission.js';
import type { ServerView } from '../../../src/server/session/server_view.js';
import { Write } from '../../../src/wire/data.js';
import { KIND } from '../../../src/wire/header.js';
import { Enqueue } from '../../../src/wire/lock.js';
import { bytes, decode, encode, message, req } from '../../../src/wire/schema.js';
import { GetFids } from '../../../src/wire/session.js';
import { type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const MTIME = { sec: 1, nsec: 0 };
const LIMITS = { linkBytes: 10_000, hostBytes: 15_000, allBytes: 20_000 };

function peer(name: string) {
  return {
    peer: name,
    isClosed: false,
    destroy() {
      this.isClosed = true;
    },
  };
}

test('requests that wait are limited for a connection, for a host and in all; the largest is closed', () => {
  const waiting = new WaitingRequests(LIMITS);
  const [a1, a2, b, c, d] = ['a:1', 'a:2', 'b:1', '[::1]:1', 'd:1'].map(peer) as [
    ReturnType<typeof peer>,
    ...ReturnType<typeof peer>[],
  ] as ReturnType<typeof peer>[];
  const all = [a1, a2, b, c, d] as ReturnType<typeof peer>[];
  const closed = () => all.filter(({ isClosed }) => isClosed).map((one) => one.peer);
  const take = (of: ReturnType<typeof peer> | undefined, n: number) => waiting.take(of as never, n);
  const seen: string[][] = [];
  const first = take(a1, 8000);
  take(a2, 5000);
  seen.push(closed());
  take(a2, 2000); // the host has too much
  seen.push(closed());
  take(b, 3000); // all have too much: a1 has most of those that are open
  seen.push(closed());
  waiting.give(a1 as never, first);
  take(c, 9600); // this connection has
  seen.push(closed());
  assert.deepEqual(seen, [[], ['a:2'], ['a:1', 'a:2'], ['a:1', 'a:2', '[::1]:1']]);
  assert.deepEqual(
    [hostOf('[::1]:80'), hostOf('10.0.0.1:80'), hostOf('name')],
    ['[::1]', '10.0.0.1', 'name'],
  );
});

test('a decoded request keeps nothing alive of fields that nobody knows, or of what else came with it', () => {
  const Old = message('Old', { value: req(1, bytes(100)) });
  const New = message('New', { value: req(1, bytes(100)), more: req(2, bytes(100_000)) });
  const body = encode(New, { value: Buffer.from('abc'), more: Buffer.alloc(100_000) });
  const { value } = decode(Old, body);
  assert.deepEqual([Buffer.from(value).toString(), value.buffer.byteLength < 4096], ['abc', true]);
});

test('a frame that is kept does not keep the memory that it was received in', () => {
  const chunk = Buffer.alloc(64 << 10);
  const frame = { header: {}, body: chunk.subarray(0, 100), bulk: Buffer.alloc(0) } as unknown as Frame;
  const kept = keptCopy(frame);
  assert.deepEqual([kept.body.length, kept.body.buffer.byteLength], [100, 100]);
  const frames = new KeptFrames(1000);
  const before = frames.isFull;
  frames.add(frameBytes(kept) + 900);
  assert.deepEqual([before, frames.isFull], [false, true]);
});

async function withHolder(t: TestContext, lockTimeoutMs: number): Promise<[ServerWorld, RawClient, Fid]> {
  const world = await serverWorld(t, {});
  await world.server({ lockTimeoutMs });
  const holder = await world.connected('holder');
  holder.yields = false;
  const { fid } = (await holder.create('f')).attr;
  await holder.call(Enqueue, { type: 'data', fid, mode: 'PW' });
  // It has the lock. One more for each call would wait behind the other client, and nothing would be written.
  holder.locksContent = false;
  return [world, holder, fid];
}

test('a frame waits for the next server only if its client does', () => {
  const admission = new Admission({ state: 'committing', target: undefined } as unknown as ServerView);
  const kept = new KeptFrames();
  const life = new Lifetime();
  const client = {
    life,
    kept,
    held: [],
    heldBytes: 0,
    replayBytes: 0,
    heldPause: false,
    activeLocks: new Set(),
  };
  const header = { kind: KIND.request, opcode: GetFids.opcode, flags: 0 };
  const frame = { header, body: Buffer.alloc(3), bulk: Buffer.alloc(0) } as unknown as Frame;
  const source = { link: { pause: () => undefined } } as unknown as FrameSource;
  const holds = (): boolean => admission.holds(source, client as unknown as ClientExport, frame);
  assert.deepEqual([holds(), client.held.length, client.heldBytes], [true, 1, frameBytes(frame)]);
  kept.checkInvariants([client]);
  life.end(new FsError('ESHUTDOWN', 'it has said goodbye'));
  assert.deepEqual([holds(), client.held.length], [true, 1]);
  kept.checkInvariants([client]);
});

test('a lock holder that writes a byte now and then is evicted at its limit', async (t) => {
  const [world, holder, fid] = await withHolder(t, 400);
  const other = await world.connected('other');
  const wanted = other.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  let writes = 0;
  const drip = (): void => {
    holder
      .call(Write, { fid, offset: writes, mtime: MTIME, grantUsed: 0 }, { bulk: [Buffer.from('z')] })
      .then(() => {
        writes += 1;
        if (writes < 100_000 && holder.evictions.length === 0) holder.time.sleep(1).then(drip);
      })
      .catch(() => undefined);
  };
  drip();
  assert.equal((await wanted).granted, true);
  await world.time.until('the holder hears it', () => holder.evictions.length === 1);
  assert.ok(writes > 1, `${writes} writes`);
  assert.match(holder.evictions[0] ?? '', /did not give back a lock/);
});

test('a lock holder that writes without an end is evicted in the end', async (t) => {
  const [world, holder, fid] = await withHolder(t, 40);
  const other = await world.connected('other');
  const wanted = other.call(Enqueue, { type: 'data', fid, mode: 'PR' });
  const bulk = [Buffer.alloc(64 << 10, 'z')];
  let writes = 0;
  const pour = (): void => {
    holder
      .call(Write, { fid, offset: 0, mtime: MTIME, grantUsed: 0 }, { bulk })
      .then(() => {
        writes += 1;
        if (holder.evictions.length === 0) holder.time.sleep(1).then(pour);
      })
      .catch(() => undefined);
  };
  pour();
  assert.equal((await wanted).granted, true);
  await world.time.until('the holder hears it', () => holder.evictions.length === 1);
  assert.ok(writes > 1, `${writes} writes`);
  assert.match(holder.evictions[0] ?? '', /did not give back a lock/);
});

test('a client that is one too many waits and is told why; who is known comes back; a place that is free is taken', async (t) => {
  const world = await serverWorld(t, {});
  await world.server({ clientsMax: 2 });
  const [a] = [await world.connected('a'), await world.connected('b')];
  const third = world.client('c');
  const { outcome, reason } = await third.connect();
  const back = await a.connect();
  world.last.evict('b', 'test');
  const later = await third.connect();
  assert.deepEqual([outcome, back.outcome, later.outcome], ['wait', 'resumed', 'new']);
  assert.match(reason ?? '', /2 clients, as many as it takes/);
  assert.equal(world.said.filter((text) => text.includes('refuses connections')).length, 1);
});

test('when all connections are in use the oldest that said nothing is closed, and an administrator gets in', async (t) => {
  const world = await serverWorld(t, {});
  const kinds = new Set<string | undefined>();
  await world.server({ connectionsMax: 20, onState: (_text, kind) => kinds.add(kind) });
  for (const name of ['a', 'b', 'c', 'd']) await world.connected(name);
  const refused = world.client('e');
  assert.equal((await refused.connect()).outcome, 'wait');
  for (let n = 0; n < 40; n += 1) void world.client(`silent${n}`).dial();
  const admin = world.client('admin');
  assert.equal((await admin.connect({ role: 'admin' })).outcome, 'new');
  assert.ok(kinds.has('out-of-descriptors'), 'it is told why');
});

test('a bulk that comes with a request that has none is not kept while the request waits', async (t) => {
  const [world, holder, fid] = await withHolder(t, 60_000);
  const other = await world.connected('other');
  const bulk = [Buffer.alloc(4 << 20)];
  const first = other.call(Enqueue, { type: 'data', fid, mode: 'PR' }, { bulk });
  // More than one connection's bulks may have: if they counted, nothing of it would be read any more.
  const more = Array.from({ length: 20 }, () =>
    other.call(Enqueue, { type: 'data', fid, mode: 'PR' }, { bulk }).catch(() => undefined),
  );
  assert.ok((await other.call(GetFids, {})).start);
  await holder.lose();
  world.last.evict('holder', 'test');
  assert.equal((await first).granted, true);
  await Promise.all(more);
});
