/** Names written back: races between what a client executes by itself, its own requests, other clients, and crashes. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { ROOT_FID } from '../../../../src/base/ids.js';
import type { ClientOptions } from '../../../../src/client/api.js';
import type { Connection } from '../../../../src/runtime/ports.js';
import { Batch } from '../../../../src/wire/batch.js';
import { decodeHeader, HEADER_SIZE } from '../../../../src/wire/header.js';
import { decode } from '../../../../src/wire/schema.js';
import {
  type ClientWorld,
  clientWorld,
  errnoOf,
  O_CREAT,
  O_RDONLY,
  O_RDWR,
  type TestClient,
} from '../../../worlds/client_world.js';
import { atOnce, create, nameOf, put, rename, setting, textOf } from '../../../worlds/own_directory.js';

async function quiet(world: ClientWorld, a: TestClient): Promise<void> {
  await world.time.until('all is there', () => a.target.changes + a.target.dirtyBytes === 0);
}

const seconds = ({ sec }: { readonly sec: number }): number => sec;

interface SlowClient {
  a?: TestClient;
  armed: boolean;
  held: boolean;
  /** Instead of losing all that it sends until the connection breaks. */
  slows?: (connection: Connection) => void;
}

/** A client that is slow after the next recovery: what it sends when it is in again arrives after `letGo`. */
function slowAfterRecovery(): {
  options: Partial<ClientOptions>;
  client: SlowClient;
} {
  const client: SlowClient = { armed: false, held: false };
  const onState = (text: string): void => {
    if (!client.armed || !text.endsWith(': ACTIVE_LOCK')) return;
    client.armed = false;
    client.held = true;
    if (client.slows === undefined) client.a?.lose('requests');
    else for (const connection of client.a?.connections.keys() ?? []) client.slows(connection);
  };
  return { options: { onState }, client };
}

const LONG_AGO = { sec: 1_000_000, nsec: 7 };

for (const [size, content] of [
  ['small', 'hello'],
  ['larger', 'x'.repeat(20_000)],
] as const) {
  test(`the ctime of a ${size} file whose mtime was set right after it was written is not that mtime`, async (t) => {
    const { world, a, b, d } = await setting(t);
    const file = create(a, d, 'f');
    await a.write(file, 0, content);
    const told = atOnce(a.fs.setattr(a.op, file.fid, { mtime: LONG_AGO, killSuidgid: false }));
    await a.close(file);
    await quiet(world, a);
    await a.unmount();
    const seen = await b.lookup('f', d);
    assert.deepEqual(seen?.attr.mtime, LONG_AGO);
    assert.ok(
      seconds(seen.attr.ctime) >= seconds(told.attr.ctime),
      `its program was told ${told.attr.ctime.sec}, and others see ${seen.attr.ctime.sec}`,
    );
  });
}

test('a directory with a modification time in the future gives it to nothing that is made in it', async (t) => {
  const { a, d } = await setting(t);
  const future = { sec: 4_102_444_800, nsec: 0 };
  const before = (await a.fs.getattr(a.op, ROOT_FID)).attr.ctime;
  atOnce(a.fs.setattr(a.op, d, { mtime: future, killSuidgid: false }));
  const f = create(a, d, 'f');
  const { attr } = await a.fs.getattr(a.op, f.fid);
  const directory = (await a.fs.getattr(a.op, d)).attr;
  assert.ok(seconds(attr.mtime) < before.sec + 3600, `mtime of the new file: ${attr.mtime.sec}`);
  assert.ok(seconds(directory.mtime) < before.sec + 3600, `mtime of the directory: ${directory.mtime.sec}`);
});

test('attributes of an unlinked open file, set just before a crash, cost the client nothing', async (t) => {
  const { options, client } = slowAfterRecovery();
  const { world, a, d } = await setting(t, options);
  client.a = a;
  const file = create(a, d, 'f');
  await a.write(file, 0, 'x');
  await a.unlink('f', d);
  await a.fs.fsync(a.op, file.fh);
  await quiet(world, a);
  await world.time.sleep(500);
  await put(a, d, 'precious', 'precious');
  const changed = a.fs.setattr(a.op, file.fid, { mode: 0o600, killSuidgid: false, fh: file.fh });
  t.diagnostic(`at once: ${!(changed instanceof Promise)}`);
  await changed;
  await a.close(file);
  client.armed = true;
  client.slows = (connection) => {
    const write = connection.write.bind(connection);
    connection.write = (chunks) => {
      void world.time.sleep(30).then(() => write(chunks));
      return true;
    };
  };
  await world.crash();
  await world.time.until('a is slow', () => client.held);
  await world.time.until('a is back', () => a.target.importState === 'FULL' && a.target.gate === 'OPEN');
  await world.time.sleep(3000);
  assert.deepEqual(a.target.evictions, []);
  assert.equal(await textOf(a, d, 'precious'), 'precious');
});

test('an open file was removed, then its directory: nothing is private under a lock that is gone', async (t) => {
  const { world, a, d } = await setting(t);
  const sub = atOnce(a.fs.create(a.op, d, nameOf('sub'), { mode: 0o040755, umask: 0 })).attr.fid;
  const file = create(a, sub, 'f');
  await a.unlink('f', sub);
  await a.fs.unlink(a.op, d, nameOf('sub'), true);
  await quiet(world, a);
  await world.time.sleep(5000);
  a.check();
  await a.close(file);
});

test('a chmod that was not answered when the own lock went back, and a crash', async (t) => {
  const { options, client } = slowAfterRecovery();
  const { world, a, b, d } = await setting(t, options);
  client.a = a;
  const { fid } = atOnce(a.fs.create(a.op, d, nameOf('fifo'), { mode: 0o010644, umask: 0 })).attr;
  await quiet(world, a);
  await world.time.sleep(500);
  await b.names(ROOT_FID);
  a.lose('requests');
  const looked = b.lookup('fifo', d);
  atOnce(a.fs.setattr(a.op, fid, { mode: 0o010600, killSuidgid: false }));
  await world.time.sleep(100);
  client.armed = true;
  await world.crash();
  await world.time.until('a is held up', () => client.held);
  const first = await Promise.race([looked, world.time.sleep(3000)]);
  t.diagnostic(`b ${first === undefined ? 'waits' : 'has looked'}; a has ${a.target.changes} changes`);
  a.breakConnection();
  await world.time.within('b looks', looked);
  await world.time.until('a is back', () => a.target.importState === 'FULL' && a.target.gate === 'OPEN');
  await world.time.sleep(3000);
  assert.deepEqual(a.target.evictions, []);
  assert.equal((await b.lookup('fifo', d))?.attr.mode, 0o010600);
});

test('a rename while a fallocate of the file is under way: the new size is known', async (t) => {
  const { world, a, b, d } = await setting(t);
  const file = create(a, d, 'f');
  await a.write(file, 0, 'x');
  await a.fs.fsync(a.op, file.fh);
  await quiet(world, a);
  const extended = Promise.resolve(a.fs.fallocate(a.op, file.fh, 0, 0, 100_000));
  for (let at = 0; at < 20; at++) await Promise.resolve();
  await a.fs.rename(a.op, d, nameOf('f'), d, nameOf('g'), 0);
  await extended;
  assert.equal(await a.size(file.fid), 100_000);
  await a.write(file, 100_000, 'end', true);
  await a.close(file);
  await quiet(world, a);
  assert.equal((await b.lookup('g', d))?.attr.sizeBytes, 100_003);
});

test('a program that removes an open new file can be interrupted while the server is silent', async (t) => {
  const { world, a, d } = await setting(t);
  create(a, d, 'f');
  a.lose('answers');
  const { op, interrupt } = a.interruptible();
  const removed = errnoOf(() => a.fs.unlink(op, d, nameOf('f'), false));
  await world.time.sleep(10);
  interrupt();
  const first = await Promise.race([removed, world.time.sleep(1000).then(() => 'it waits')]);
  assert.equal(first, 'EINTR');
});

test('a chmod of a file without a data lock tells its size', async (t) => {
  const { world, a, d } = await setting(t, { maxLocks: 64 });
  const fid = await put(a, d, 'f', 'hello');
  await quiet(world, a);
  for (let at = 0; at < 100; at++) {
    await put(a, d, `n${at}`, 'x').catch(() => a.create(`n${at}`, O_RDWR, d));
    a.fs.release(await a.fs.open(a.op, fid, O_RDONLY), undefined);
  }
  await quiet(world, a);
  const changed = a.fs.setattr(a.op, fid, { mode: 0o600, killSuidgid: false });
  t.diagnostic(`at once: ${!(changed instanceof Promise)}`);
  assert.equal((await changed).attr.sizeBytes, 5);
});

test('a file that was written and renamed, and written again, is never seen short', async (t) => {
  const { world, a, b, d } = await setting(t);
  await put(a, d, 'final', 'the old content');
  await quiet(world, a);
  await world.time.sleep(500);
  const file = create(a, d, 'tmp');
  await a.write(file, 0, 'the new content');
  rename(a, d, 'tmp', d, 'final');
  await a.write(file, 15, 'y'.repeat(5000));
  await world.time.sleep(4);
  a.offline();
  world.server?.evict('a', 'it has died');
  const text = await textOf(b, d, 'final');
  a.online();
  assert.ok(
    text.startsWith('the new content') || text === 'the old content',
    `it reads ${text.length} bytes`,
  );
  // It has lost what it wrote later, and says so.
  await assert.rejects(a.unmount(), /were not written to the server/);
});

test('a private file of which the name is not cached any more moves elsewhere: it is private no more', async (t) => {
  const { world, a, b, d } = await setting(t);
  const fid = await put(a, d, 'f', 'x');
  await quiet(world, a);
  // As the LRU of names does it when there are more than 500,000.
  let dropped = 0;
  for (const table of a.fs.checked() as unknown as { names?: { drop?(fid: Fid): void } }[]) {
    if (table.names?.drop === undefined) continue;
    table.names.drop(d);
    dropped += 1;
  }
  assert.equal(dropped, 1);
  await a.fs.rename(a.op, d, nameOf('f'), ROOT_FID, nameOf('g'), 0);
  await a.lookup('g');
  const opened = await b.open('g', O_RDONLY);
  await world.time.sleep(100);
  const changed = a.fs.setattr(a.op, fid, { mode: 0o600, killSuidgid: false });
  t.diagnostic(`at once: ${!(changed instanceof Promise)}`);
  await changed;
  await world.time.sleep(3000);
  assert.deepEqual(a.target.evictions, []);
  assert.equal((await b.lookup('g'))?.attr.mode, 0o100600);
  await b.close(opened);
});

test('a full meta device, and a crash: content that was under way was promised its room', async (t) => {
  const world = await clientWorld(t, {}, { metaBytes: 16 << 20 });
  const { options, client } = slowAfterRecovery();
  const [a, b] = [await world.client('a', options), await world.client('b', { syncMetadata: true })];
  client.a = a;
  const [da, db] = [await a.mkdir('da'), await b.mkdir('db')];
  await put(a, da, 'first', 'x');
  await quiet(world, a);
  const long = 'n'.repeat(200);
  let filled = 0;
  const fill = async (): Promise<void> => {
    for (;;) {
      filled += 1;
      const name = nameOf(`${filled}${long}`);
      const error = await errnoOf(() => b.fs.create(b.op, db, name, { mode: 0o100644, umask: 0 }));
      if (error === 'ENOSPC') return;
    }
  };
  await fill();
  await world.time.sleep(1000);
  a.lose('requests');
  let made = 0;
  for (; made < 60; made++) {
    const done = a.fs.createAndOpen(
      a.op,
      da,
      nameOf(`f${made}`),
      { mode: 0o100644, umask: 0 },
      O_RDWR | O_CREAT,
    );
    if (done instanceof Promise) {
      done.catch(() => undefined);
      break;
    }
    await a.write({ fid: done.known.attr.fid, fh: done.fh }, 0, 'z'.repeat(4000));
    await a.close({ fh: done.fh });
  }
  t.diagnostic(`made ${made}`);
  assert.ok(made > 20);
  await world.time.sleep(20);
  client.armed = true;
  await world.crash();
  await world.time.until('a is held up', () => client.held);
  const before = filled;
  await fill();
  t.diagnostic(`others made ${filled - before} more`);
  a.breakConnection();
  await world.time.until('a is back', () => a.target.importState === 'FULL' && a.target.gate === 'OPEN');
  await world.time.sleep(3000);
  assert.deepEqual(a.target.evictions, []);
});

test('a file that was written, renamed and closed goes in one BATCH with its content over a slow line too', async (t) => {
  const { world, a, d } = await setting(t);
  await put(a, d, 'final', 'the old content');
  await quiet(world, a);
  await world.time.sleep(500);
  const sent: Uint8Array[] = [];
  for (const connection of a.connections.keys()) {
    const write = connection.write.bind(connection);
    connection.write = (chunks, left) => {
      for (const chunk of chunks) sent.push(Buffer.from(chunk));
      return write(chunks, left);
    };
  }
  // As over a line with a round trip of more than 5 ms.
  a.lose('answers');
  create(a, d, 'first');
  await world.time.sleep(5);
  await put(a, d, 'tmp', 'the new content');
  rename(a, d, 'tmp', d, 'final');
  await world.time.sleep(50);
  a.breakConnection();
  await quiet(world, a);
  const batches: { renames: boolean; contents: number }[] = [];
  let bytes = Buffer.concat(sent);
  while (bytes.length > 0) {
    const header = decodeHeader(bytes.subarray(0, HEADER_SIZE));
    const body = bytes.subarray(HEADER_SIZE, HEADER_SIZE + header.bodyLength);
    bytes = bytes.subarray(HEADER_SIZE + header.bodyLength + header.bulkLength);
    if (header.opcode !== Batch.opcode) continue;
    const { operations } = decode(Batch.request, body);
    const contents = operations.filter(({ content }) => content !== undefined).length;
    batches.push({ renames: operations.some((one) => one.rename !== undefined), contents });
  }
  t.diagnostic(JSON.stringify(batches));
  assert.deepEqual(
    batches.filter(({ renames, contents }) => renames && contents === 0),
    [],
  );
});

for (const [size, content] of [
  ['small', 'hello'],
  ['larger', 'x'.repeat(20_000)],
] as const) {
  test(`close says that the content of a ${size} file may be lost by an eviction`, async (t) => {
    const { world, a, d } = await setting(t);
    const file = create(a, d, 'f');
    await a.write(file, 0, content);
    const other = await a.fs.open(a.op, file.fid, O_RDWR);
    a.fs.flush(a.op, other, '0000000000000002');
    await quiet(world, a);
    t.diagnostic(`not committed: ${a.target.replayList.operations}`);
    world.server?.evict('a', 'the test wants it');
    await world.time.until('a is in again', () => a.target.evictions.length === 1);
    assert.equal(await errnoOf(() => a.fs.flush(a.op, file.fh, '0000000000000001')), 'EIO');
  });
}

test('a copy into a file that is renamed meanwhile: the new size is known', async (t) => {
  const { world, a, d } = await setting(t);
  const from = create(a, d, 'from');
  await a.write(from, 0, 'y'.repeat(50_000));
  await a.fs.fsync(a.op, from.fh);
  const file = create(a, d, 'f');
  await a.fs.fsync(a.op, file.fh);
  await quiet(world, a);
  const copied = Promise.resolve(a.fs.copyRange(a.op, from.fh, 0, file.fh, 0, 50_000));
  for (let at = 0; at < 20; at++) await Promise.resolve();
  await a.fs.rename(a.op, d, nameOf('f'), d, nameOf('g'), 0);
  await copied;
  assert.equal((await a.text(file)).length, 50_000);
});
