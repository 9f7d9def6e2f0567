/** Two clients of one server: what one does is at once true for the other. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Fid, ROOT_FID } from '../../../src/base/ids.js';
import {
  clientWorld,
  errnoOf,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  O_WRONLY,
  type TestClient,
} from '../../worlds/client_world.js';

test('what one client wrote is read by the other, unflushed and without a close', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const mine = await a.create('f');
  await a.write(mine, 0, 'hello');
  const theirs = await b.open('f');
  assert.equal(await b.text(theirs), 'hello');
  await a.write(mine, 5, ' world');
  assert.deepEqual([await b.size(mine.fid), await b.text(theirs)], [11, 'hello world']);
  await b.close(theirs);
  await a.close(mine);
});

for (const [how, cut] of Object.entries({
  truncate: (client: TestClient, fid: Fid) => client.setattr(fid, { sizeBytes: 2 }),
  'open with O_TRUNC': (client: TestClient, fid: Fid) => client.fs.open(client.op, fid, O_WRONLY | O_TRUNC),
})) {
  test(`a read during ${how} finds the file as it was or as it will be, never zeros that nobody wrote`, async (t) => {
    const world = await clientWorld(t);
    const a = await world.client('a');
    const file = await a.create('f');
    await a.write(file, 0, 'xxxxxx');
    // Nothing that the client asks arrives: the truncate is under way until the connection breaks.
    a.lose('requests');
    const done = Promise.resolve(cut(a, file.fid));
    await world.time.until('it is under way', () => a.target.dirtyBytes < 6);
    const seen = await world.time.within('the read', a.text(file), 2000);
    assert.equal(seen, how === 'truncate' ? 'xx' : '');
    a.breakConnection();
    await world.time.within('the truncate', done);
    assert.equal(await a.text(file), seen);
  });
}

test('two appenders never write over each other', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('log', O_WRONLY);
  const fb = await b.open('log', O_WRONLY);
  const append = async (client: typeof a, file: typeof fa, tag: string): Promise<void> => {
    for (let i = 0; i < 50; i += 1)
      await client.write(file, 0, `${tag}${String(i).padStart(2, '0')}\n`, true);
  };
  await Promise.all([append(a, fa, 'a'), append(b, fb, 'b')]);
  const lines = (await a.text(await a.open('log'))).trimEnd().split('\n');
  const expected = (tag: string) =>
    Array.from({ length: 50 }, (_, i) => `${tag}${String(i).padStart(2, '0')}`);
  assert.deepEqual(
    [lines.filter((line) => line[0] === 'a'), lines.filter((line) => line[0] === 'b')],
    [expected('a'), expected('b')],
  );
});

test('names made, renamed and removed by one client are so for the other, cached negatives included', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  assert.equal(await b.lookup('x'), undefined);
  assert.equal(await b.lookup('x'), undefined);
  const x = await a.create('x');
  assert.equal((await b.lookup('x'))?.attr.fid, x.fid);
  const dir = await a.mkdir('d');
  await a.fs.rename(a.op, 1 as never, 'x' as never, dir, 'y' as never, 0);
  assert.deepEqual([await b.lookup('x'), (await b.lookup('y', dir))?.attr.fid], [undefined, x.fid]);
  await b.unlink('y', dir);
  assert.deepEqual(
    [await a.lookup('y', dir), await a.names(dir), (await a.names()).sort()],
    [undefined, [], ['d']],
  );
});

test('truncate by one client is seen by the other, and cached pages beyond are gone', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f');
  await a.write(fa, 0, 'x'.repeat(10_000));
  const fb = await b.open('f', O_RDWR);
  assert.equal((await b.read(fb, 0, 20_000)).length, 10_000);
  await a.setattr(fa.fid, { sizeBytes: 4 });
  assert.equal(await b.text(fb), 'xxxx');
  await b.write(fb, 8, 'end');
  assert.equal(await a.text(fa), 'xxxx\0\0\0\0end');
});

test('mode and times set by one client are seen by the other; utimes survives the write-back', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const f = await a.create('f');
  await a.write(f, 0, 'data');
  await a.setattr(f.fid, { mtime: { sec: 1000, nsec: 7 } });
  await a.setattr(f.fid, { mode: 0o600 });
  await a.close(f);
  const seen = await b.fs.getattr(b.op, f.fid);
  assert.deepEqual(
    [seen.attr.mode & 0o777, seen.attr.mtime, seen.attr.sizeBytes],
    [0o600, { sec: 1000, nsec: 7 }, 4],
  );
});

test('getattr, lookup and read under locks answer without a promise', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const dir = await a.mkdir('d');
  const f = await a.create('f', O_RDWR, dir);
  await a.write(f, 0, 'abc');
  const values = [
    a.fs.getattr(a.op, f.fid),
    a.fs.getattr(a.op, dir),
    a.fs.lookup(a.op, dir, 'f' as never),
    a.fs.lookup(a.op, dir, 'never made' as never),
    a.fs.read(a.op, f.fh, f.fid, 0, 10),
  ];
  assert.deepEqual(
    values.map((value) => value instanceof Promise),
    [false, false, false, false, false],
  );
});

test('an unlinked open file is still read and written, and gone with its last close', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const f = await a.create('f');
  await a.write(f, 0, 'one');
  await a.unlink('f');
  await a.write(f, 3, 'two');
  assert.deepEqual([await a.text(f), (await a.fs.getattr(a.op, f.fid)).attr.nlink], ['onetwo', 0]);
  await a.close(f);
  assert.equal(await a.lookup('f'), undefined);
});

test('a large file is written and read through a small cache', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a', { cacheBytes: 16 << 20 });
  const b = await world.client('b', { cacheBytes: 16 << 20 });
  const f = await a.create('big', O_WRONLY);
  const piece = 1 << 18;
  const count = 96;
  for (let i = 0; i < count; i += 1) await a.write(f, i * piece, Buffer.alloc(piece, i));
  await a.fs.fsync(a.op, f.fh);
  const g = await b.open('big', O_RDONLY);
  for (let i = 0; i < count; i += 1) {
    const got = await b.read(g, i * piece, piece);
    assert.ok(got.length === piece && got.every((byte) => byte === i % 256), `piece ${i}`);
  }
  const { cache } = b.fs.status();
  assert.ok(cache.pageBytes <= cache.limitBytes, `${cache.pageBytes} bytes cached`);
});

test('a closed file is forgotten with its last lock, and by a client that keeps few locks', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b', { maxLocks: 64 });
  const names = Array.from({ length: 200 }, (_, index) => `f${index}`);
  for (const name of names) {
    const f = await a.create(name);
    await a.write(f, 0, name);
    await a.close(f);
  }
  const rememberedByA = a.fs.status().cache.files;
  assert.ok(rememberedByA >= names.length, `${rememberedByA} files`);
  for (const name of names) {
    const g = await b.open(name, O_RDWR);
    await b.write(g, 0, name.toUpperCase());
    await b.close(g);
    // A lock just granted is in use until the events under way are over.
    await world.time.turn();
  }
  // Each write took back what a held on the file.
  await world.time.until(
    'both forget',
    () => a.fs.status().cache.files === 0 && b.fs.status().cache.files <= 64,
  );
});

test('application locks of two clients exclude each other, wait, and are released by close', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f');
  const fb = await b.open('f', O_RDWR);
  const lock = {
    kind: 'posix',
    owner: '00000000000000aa',
    pid: 1,
    exclusive: true,
    start: 0,
    end: undefined,
  } as const;
  await a.fs.setLock(a.op, fa.fh, lock, false);
  assert.equal(await errnoOf(() => b.fs.setLock(b.op, fb.fh, lock, false)), 'EAGAIN');
  assert.equal((await b.fs.testLock(b.op, fb.fh, lock))?.pid, 1);
  const { op, interrupt } = b.interruptible();
  const waits = errnoOf(() => b.fs.setLock(op, fb.fh, lock, true));
  await world.time.turn();
  interrupt();
  assert.equal(await waits, 'EINTR');
  const granted = b.fs.setLock(b.op, fb.fh, lock, true);
  await a.close(fa, lock.owner);
  await granted;
  assert.deepEqual([a.target.appLocks, b.target.appLocks], [0, 1]);
});

test('a signal at any moment of an flock leaves the caller with the lock, or with EINTR and no lock', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const b = await world.client('b');
  const fa = await a.create('f');
  const fb = await b.open('f', O_RDWR);
  const lock = (owner: string) =>
    ({ kind: 'flock', owner, pid: 1, exclusive: true, start: 0, end: undefined }) as const;
  const [mine, other] = [lock('00000000000000aa'), lock('00000000000000bb')];
  const ends = new Map<string, number>();
  for (let turns = 0; turns < 120; turns++) {
    const { op, interrupt } = a.interruptible();
    const ended = errnoOf(() => a.fs.setLock(op, fa.fh, mine, turns % 2 === 0));
    for (let turn = 0; turn < turns / 2; turn++) await Promise.resolve();
    interrupt();
    const end = await ended;
    ends.set(end, (ends.get(end) ?? 0) + 1);
    const held = end === 'no error';
    assert.ok(held || end === 'EINTR', `${end} after ${turns / 2} turns`);
    assert.equal(a.target.appLocks, held ? 1 : 0, `${end} after ${turns / 2} turns`);
    if (held) {
      assert.equal(await errnoOf(() => b.fs.setLock(b.op, fb.fh, other, false)), 'EAGAIN');
      await a.fs.unlock(a.op, fa.fh, mine);
    }
    // What was granted to a caller that is gone is taken back soon.
    await world.time.within(
      'the other gets it',
      Promise.resolve(b.fs.setLock(b.op, fb.fh, other, true)),
      1000,
    );
    await b.fs.unlock(b.op, fb.fh, other);
  }
  assert.deepEqual([...ends.keys()].sort(), ['EINTR', 'no error']);
});

test('who makes a name for each that it reads comes to the end of the directory; rewinding shows the new ones', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  for (let i = 0; i < 5; i += 1) await a.mkdir(`d${i}`);
  const fh = await a.fs.open(a.op, ROOT_FID, 0);
  let cookie = 0;
  const seen: string[] = [];
  for (let round = 0; round < 100; round += 1) {
    const { entries } = await a.fs.readdir(a.op, fh, cookie, 2, false);
    if (entries.length === 0) break;
    seen.push(...entries.map((entry) => entry.name));
    cookie = entries.at(-1)?.cookie ?? cookie;
    await a.mkdir(`new${round}`);
    if (round > 0) await a.fs.unlink(a.op, ROOT_FID, `new${round - 1}` as never, true);
  }
  assert.deepEqual(seen.slice(0, 5), ['d0', 'd1', 'd2', 'd3', 'd4']);
  assert.ok(seen.length < 10, seen.join());
  const again = await a.fs.readdir(a.op, fh, 0, 100, false);
  assert.equal(again.entries.length, 6);
});
