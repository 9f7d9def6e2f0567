/** A crash of the server under real clients, as applications see it: nothing that was answered is lost. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fh, type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import type { DirEntry } from '../../../src/client/api.js';
import type { ServerOptions } from '../../../src/server/server.js';
import { RENAME_EXCHANGE, RENAME_WHITEOUT } from '../../../src/wire/meta.js';
import {
  type ClientWorld,
  clientWorld,
  errnoOf,
  O_RDWR,
  O_WRONLY,
  type TestClient,
} from '../../worlds/client_world.js';

const LOCK = {
  kind: 'flock',
  owner: '00000000000000aa',
  pid: 1,
  exclusive: true,
  start: 0,
  end: undefined,
} as const;
const WRITEBACK = { append: false, writeback: true, sync: false, killSuidgid: false } as const;

function nameOf(text: string): Name {
  return text as Name;
}

function evictions(client: TestClient): number {
  return client.target.evictions.length;
}

async function boot(
  t: TestContext,
  options: Partial<ServerOptions> = {},
): Promise<{ world: ClientWorld; a: TestClient; b: TestClient }> {
  const world = await clientWorld(t, options);
  const clients = { a: await world.client('a'), b: await world.client('b') };
  await world.server?.target?.store.sync();
  return { world, ...clients };
}

/** The instance that was started last has this client, and it may work. */
async function back(world: ClientWorld, ...clients: TestClient[]): Promise<void> {
  const instance = world.server?.target?.store.superblock.instance;
  for (const client of clients) {
    await world.time.until(`${client.fs.status().uuid} is back`, () => {
      return client.target.importState === 'FULL' && client.target.instance === instance;
    });
  }
}

test('hold, create 220 files, crash: all are there, for others too, with the times that were told', async (t) => {
  const { world, a, b } = await boot(t);
  world.servers.hold();
  const made = new Map<string, Fid>();
  for (let i = 0; i < 220; i += 1) made.set(`f${i}`, (await a.create(`f${i}`)).fid);
  const before = (await a.fs.getattr(a.op, made.get('f7') ?? ROOT_FID)).attr;
  await world.crash();
  await back(world, a, b);
  const found = new Map<string, Fid | undefined>();
  for (const name of await b.names()) found.set(name, (await b.lookup(name))?.attr.fid);
  assert.deepEqual([found.size, new Map([...found].sort())], [220, new Map([...made].sort())]);
  assert.deepEqual((await b.fs.getattr(b.op, before.fid)).attr, before);
  assert.deepEqual([evictions(a), evictions(b)], [0, 0]);
});

test('hold, mkdir and a file in it, rename and unlink, crash: the tree is as it was left', async (t) => {
  const { world, a, b } = await boot(t);
  await a.create('a');
  world.servers.hold();
  const d = await a.mkdir('d');
  await a.create('f', O_RDWR, d);
  await a.fs.rename(a.op, ROOT_FID, nameOf('a'), ROOT_FID, nameOf('b'), 0);
  await a.unlink('b');
  await world.crash();
  await back(world, a, b);
  assert.deepEqual(
    [await a.names(), await b.names(), await b.names(d), await b.lookup('a'), await b.lookup('b')],
    [['d'], ['d'], ['f'], undefined, undefined],
  );
});

test('hold, names of every kind, crash: a listing that began before has each name once, from every position', async (t) => {
  const { world, a } = await boot(t);
  const dir = await a.mkdir('d');
  const file = await a.create('kept', O_RDWR, dir);
  for (const name of ['moved', 'left', 'right', 'hidden', 'gone']) await a.create(name, O_RDWR, dir);
  world.servers.hold();
  const rename = (from: string, to: string, flags = 0): unknown =>
    a.fs.rename(a.op, dir, nameOf(from), dir, nameOf(to), flags);
  await a.create('made', O_RDWR, dir);
  await a.mkdir('folder', dir);
  await a.fs.link(a.op, file.fid, dir, nameOf('hard'));
  await rename('moved', 'new');
  await rename('left', 'right', RENAME_EXCHANGE);
  await rename('hidden', 'shown', RENAME_WHITEOUT);
  await rename('made', 'gone');
  const expected = ['folder', 'gone', 'hard', 'hidden', 'kept', 'left', 'new', 'right', 'shown'];
  const list = async (fh: Fh, from: number, limit: number): Promise<readonly DirEntry[]> =>
    (await a.fs.readdir(a.op, fh, from, limit, false)).entries;
  const begun: { readonly fh: Fh; readonly seen: readonly DirEntry[] }[] = [];
  for (let count = 1; count <= expected.length; count++) {
    const fh = await a.fs.open(a.op, dir, 0);
    begun.push({ fh, seen: await list(fh, 0, count) });
  }
  await world.crash();
  await back(world, a);
  for (const { fh, seen } of begun) {
    const rest = await list(fh, seen.at(-1)?.cookie ?? 0, 100);
    const names = [...seen, ...rest].map(({ name }): string => name).sort();
    assert.deepEqual(names, expected, `after ${seen.length} entries`);
  }
  assert.equal(evictions(a), 0);
});

test('open, unlink, hold, crash: the descriptor reads and writes; the space is free when it is closed', async (t) => {
  const { world, a } = await boot(t);
  const free = (): number => world.server?.target?.store.availableBytes() ?? 0;
  const f = await a.create('f');
  await a.unlink('f');
  await a.fs.fsync(a.op, f.fh);
  const before = free();
  world.servers.hold();
  await a.write(f, 0, Buffer.alloc(3 << 20, 'x'));
  await a.write(f, 3 << 20, 'end');
  await world.crash();
  await back(world, a);
  assert.equal((await a.read(f, (3 << 20) - 1, 10)).toString(), 'xend');
  await a.write(f, (3 << 20) + 3, ' more');
  await a.fs.fsync(a.op, f.fh);
  assert.equal((await a.read(f, 3 << 20, 100)).toString(), 'end more');
  assert.ok(free() < before);
  await a.close(f);
  await world.time.until('the inode is gone', () => world.server?.status().orphans === 0);
  await world.time.until('its space is free', async () => {
    await world.server?.target?.store.sync();
    return free() >= before;
  });
});

test('open for writing, chmod 0, hold, crash: the descriptor writes', async (t) => {
  const { world, a, b } = await boot(t);
  const f = await a.create('f');
  await a.setattr(f.fid, { mode: 0 });
  world.servers.hold();
  await a.write(f, 0, 'before');
  await world.crash();
  await back(world, a, b);
  await a.write(f, 6, ', after');
  await a.fs.fsync(a.op, f.fh);
  const other = { fid: f.fid, fh: await b.fs.open(b.op, f.fid, O_RDWR) };
  assert.equal(await b.text(other), 'before, after');
});

test('dirty pages and pages of a mapping live through a crash; another client reads them', async (t) => {
  const { world, a, b } = await boot(t);
  const f = await a.create('f');
  await a.write(f, 0, 'x'.repeat(8192));
  await a.fs.fsync(a.op, f.fh);
  world.servers.hold();
  // Answered and not durable; then dirty; then in the kernel only.
  await a.write(f, 0, 'answered');
  await a.fs.flush(a.op, f.fh, LOCK.owner);
  await world.time.until('it is written', () => a.target.dirtyBytes === 0);
  await a.write(f, 100, 'dirty');
  a.kernel.onDropPages = async () => {
    await a.fs.write(a.op, undefined, f.fid, 4096, Buffer.from('mapped'), WRITEBACK);
  };
  await world.crash();
  const other = { fid: f.fid, fh: await b.fs.open(b.op, f.fid, O_RDWR) };
  const text = await b.text(other);
  assert.deepEqual(
    [text.slice(0, 8), text.slice(100, 105), text.slice(4096, 4102), text.length],
    ['answered', 'dirty', 'mapped', 8192],
  );
});

test('a crash drops no cache: what is read after it comes from where it was', async (t) => {
  const { world, a } = await boot(t);
  const dir = await a.mkdir('dir');
  const f = await a.create('f', O_RDWR, dir);
  await a.write(f, 0, 'cached');
  await a.fs.fsync(a.op, f.fh);
  world.servers.hold();
  await a.create('g', O_RDWR, dir);
  const locks = a.target.locks;
  await world.crash();
  await back(world, a);
  const answers = [
    a.fs.getattr(a.op, f.fid),
    a.fs.lookup(a.op, dir, nameOf('g')),
    a.fs.read(a.op, f.fh, f.fid, 0, 6),
  ];
  assert.deepEqual(
    [answers.map((answer) => answer instanceof Promise), a.target.locks, a.kernel.told],
    [[false, false, false], locks, []],
  );
});

test('an flock that is held and one that waits for it live through a crash', async (t) => {
  const { world, a, b } = await boot(t);
  const fa = await a.create('f');
  const fb = await b.open('f', O_RDWR);
  await a.fs.setLock(a.op, fa.fh, LOCK, false);
  let granted = false;
  const waits = Promise.resolve(b.fs.setLock(b.op, fb.fh, { ...LOCK, owner: '00000000000000bb' }, true)).then(
    () => {
      granted = true;
    },
  );
  await world.time.until('b waits', () => b.target.appLocks === 1);
  world.servers.hold();
  await world.crash();
  await back(world, a, b);
  assert.deepEqual([granted, a.target.lostAppLocks], [false, 0]);
  await a.fs.unlock(a.op, fa.fh, LOCK);
  await world.time.within('the lock that waited', waits);
});

for (const { name, held, change } of [
  { name: 'an unlock', held: LOCK, change: undefined },
  { name: 'the conversion of an flock', held: LOCK, change: { ...LOCK, exclusive: false } },
  {
    name: 'the downgrade of an fcntl lock',
    held: { ...LOCK, kind: 'posix' },
    change: { ...LOCK, kind: 'posix', exclusive: false },
  },
] as const) {
  test(`the answer of ${name} lost, crash: who has got the lock meanwhile keeps it`, async (t) => {
    const { world, a, b } = await boot(t);
    const fa = await a.create('f');
    const fb = await b.open('f', O_RDWR);
    await a.fs.setLock(a.op, fa.fh, held, false);
    const wanted = { ...held, owner: '00000000000000bb', exclusive: change === undefined };
    const got = Promise.resolve(b.fs.setLock(b.op, fb.fh, wanted, true));
    await world.time.until('b waits', () => b.target.appLocks === 1);
    a.lose('answers');
    const changed = Promise.resolve(
      change === undefined ? a.fs.unlock(a.op, fa.fh, held) : a.fs.setLock(a.op, fa.fh, change, true),
    );
    await world.time.within('b has it', got);
    await world.crash();
    await world.time.within('the answer', changed);
    await back(world, a, b);
    assert.deepEqual(
      [a.target.lostAppLocks, b.target.lostAppLocks, a.target.appLocks, b.target.appLocks],
      [0, 0, change === undefined ? 0 : 1, 1],
    );
    assert.equal(await errnoOf(() => b.write(fb, 0, 'x')), 'no error');
  });
}

for (const lost of ['requests', 'answers'] as const) {
  test(`an unlock under way when the server dies (lost: ${lost}) ends by a signal at once, and takes effect`, async (t) => {
    const { world, a, b } = await boot(t);
    const fa = await a.create('f');
    const fb = await b.open('f', O_RDWR);
    await a.fs.setLock(a.op, fa.fh, LOCK, false);
    a.lose(lost);
    const { op, interrupt } = a.interruptible();
    const unlocked = errnoOf(() => a.fs.unlock(op, fa.fh, LOCK));
    interrupt();
    assert.equal(await world.time.within('the unlock', unlocked), 'EINTR');
    await world.crash();
    await back(world, a, b);
    await world.time.within('b has it', Promise.resolve(b.fs.setLock(b.op, fb.fh, LOCK, true)));
    assert.deepEqual([a.target.appLocks, b.target.appLocks, a.target.lostAppLocks], [0, 1, 0]);
  });
}

type Operation = (client: TestClient, at: { readonly file: Fid; readonly fh: number }) => unknown;

const OPERATIONS: readonly { name: string; run: Operation; expect(client: TestClient): Promise<unknown> }[] =
  [
    {
      name: 'create',
      run: (a) => a.create('made'),
      expect: async (b) => (await b.lookup('made'))?.attr.nlink === 1,
    },
    { name: 'open', run: (a, { file }) => a.fs.open(a.op, file, O_RDWR), expect: async () => true },
    {
      name: 'rename',
      run: (a) => a.fs.rename(a.op, ROOT_FID, nameOf('file'), ROOT_FID, nameOf('renamed'), 0),
      expect: async (b) =>
        (await b.lookup('file')) === undefined && (await b.lookup('renamed')) !== undefined,
    },
    {
      name: 'link',
      run: (a, { file }) => a.fs.link(a.op, file, ROOT_FID, nameOf('linked')),
      expect: async (b) => (await b.lookup('linked'))?.attr.nlink === 2,
    },
    {
      name: 'unlink',
      run: (a) => a.unlink('file'),
      expect: async (b) => (await b.lookup('file')) === undefined,
    },
    {
      name: 'setxattr',
      run: (a, { file }) => a.fs.setxattr(a.op, file, 'user.x', Buffer.from('y'), 1, false),
      expect: async (b) => {
        const { fid } = (await b.lookup('file'))?.attr ?? { fid: ROOT_FID };
        return Buffer.from(await b.fs.getxattr(b.op, fid, 'user.x')).toString() === 'y';
      },
    },
    {
      name: 'chmod',
      run: (a, { file }) => a.setattr(file, { mode: 0o600 }),
      expect: async (b) => ((await b.lookup('file'))?.attr.mode ?? 0) % 0o1000 === 0o600,
    },
  ];

for (const { name, run, expect } of OPERATIONS) {
  for (const lost of ['answers', 'requests'] as const) {
    for (const how of ['the connection breaks', 'crash', 'hold, crash'] as const) {
      test(`${lost === 'answers' ? 'answer' : 'request'} of ${name} lost, ${how}: one effect, the right answer`, async (t) => {
        const { world, a, b } = await boot(t);
        const f = await a.create('file');
        await a.fs.fsync(a.op, f.fh);
        // Takes the lock under which the client would open the file by itself.
        if (name === 'open') await b.setattr(f.fid, { mode: 0o640 });
        if (how === 'hold, crash') world.servers.hold();
        a.lose(lost);
        const store = world.server?.target?.store;
        const executed = store?.lastTransno ?? 0;
        const answered = Promise.resolve(run(a, { file: f.fid, fh: f.fh }));
        if (lost === 'answers' && name !== 'open') {
          await world.time.until('it is executed', () => (store?.lastTransno ?? 0) > executed);
          if (how === 'crash') await store?.sync();
        } else {
          await world.time.sleep(5);
        }
        if (how === 'the connection breaks') a.breakConnection();
        else await world.crash();
        await world.time.within('its answer', answered);
        await back(world, a, b);
        assert.deepEqual([await expect(b), evictions(a), evictions(b)], [true, 0, 0]);
        if (name === 'open') {
          await world.time.until('both handles are open', () => {
            return world.server?.status().clients.find((client) => client.name === 'a')?.opens === 2;
          });
        }
      });
    }
  }
}

test('the answer of a close lost, crash: nothing stays open', async (t) => {
  const { world, a } = await boot(t);
  const f = await a.create('f');
  await a.unlink('f');
  a.lose('answers');
  await a.close(f);
  const opens = (): number | undefined =>
    world.server?.status().clients.find((client) => client.name === 'a')?.opens;
  await world.time.until('it is executed', () => opens() === 0);
  await world.crash();
  await back(world, a);
  assert.equal(opens(), 0);
  await world.time.until('it is destroyed', () => world.server?.status().orphans === 0);
});

test('hold, one client creates 25, another dies; crash: the 25 are there when the window ends', async (t) => {
  const world = await clientWorld(t, { recoverySoftMs: 300 });
  const [a, b] = [await world.client('a'), await world.client('b')];
  const [ofA, ofB] = [await a.mkdir('a'), await b.mkdir('b')];
  await world.server?.target?.store.sync();
  world.servers.hold();
  // In one directory b would wait for a commit: it would build on what a did.
  for (let i = 0; i < 25; i += 1) await a.create(`a${i}`, O_RDWR, ofA);
  await b.create('b', O_RDWR, ofB);
  await world.servers.crash();
  b.offline();
  await world.start({ recoverySoftMs: 300 });
  await back(world, a);
  assert.deepEqual([(await a.names(ofA)).length, await a.names(ofB), evictions(a)], [25, [], 0]);
  b.online();
  await world.time.until('b is told', () => evictions(b) === 1 && b.target.importState === 'FULL');
  assert.match(b.target.evictions[0]?.reason ?? '', /did not come back/);
});

test('crash again and again, at every step of recovery: nothing is lost', async (t) => {
  const world = await clientWorld(t);
  let crashAt: string | undefined;
  let crashed = 0;
  const a = await world.client('a', {
    onState: (text) => {
      if (crashAt === undefined || !text.endsWith(`: ${crashAt}`)) return;
      crashAt = undefined;
      crashed += 1;
      again = world.crash();
    },
  });
  const b = await world.client('b');
  let again: Promise<void> | undefined;
  const f = await a.create('f');
  const dirs = [await a.mkdir('of a'), await b.mkdir('of b')] as const;
  const expected: string[] = [];
  let text = '';
  for (const state of ['REPLAY', 'REPLAY_OPENS', 'REPLAY_LOCKS', 'WAIT_RECOVERED', 'ACTIVE_LOCK'] as const) {
    await world.server?.target?.store.sync();
    world.servers.hold();
    for (let i = 0; i < 10; i += 1) {
      const name = `${state}${i}`;
      await (i % 2 === 0 ? a : b).create(name, O_RDWR, dirs[i % 2]);
      expected.push(name);
    }
    const piece = `${state};`;
    await a.write(f, text.length, piece);
    text += piece;
    await a.fs.flush(a.op, f.fh, LOCK.owner);
    await a.fs.setLock(a.op, f.fh, LOCK, false);
    crashAt = state;
    again = undefined;
    await world.crash();
    await world.time.until('the second crash', () => crashAt === undefined);
    await again;
    await back(world, a, b);
    assert.equal(await errnoOf(() => b.fs.lookup(b.op, ROOT_FID, nameOf('f'))), 'no error');
    await a.fs.unlock(a.op, f.fh, LOCK);
  }
  const g = await b.open('f', O_RDWR);
  assert.deepEqual(
    [crashed, [...(await b.names(dirs[0])), ...(await a.names(dirs[1]))].sort(), await b.text(g)],
    [5, expected.sort(), text],
  );
  assert.deepEqual([evictions(a), evictions(b)], [0, 0]);
});

test('20 restarts under load, killed with and without what was not durable, and clean: the model is what is there', async (t) => {
  const { world, a, b } = await boot(t);
  const log = await a.create('log', O_WRONLY);
  const kept = await b.create('kept');
  await b.unlink('kept');
  let stop = false;
  let records = 0;
  const model = new Set<string>(['log']);
  const appender = (async () => {
    while (!stop) {
      await a.write(log, 0, `${String(records).padStart(7, '0')}\n`, true);
      records += 1;
      if (records % 64 === 0) await a.fs.fsync(a.op, log.fh);
      if (records % 8 === 0) await world.time.sleep(0.5);
    }
  })();
  const names = (async () => {
    for (let i = 0; !stop; i += 1) {
      const [one, two] = [`n${i % 50}`, `m${i % 50}`];
      const client = i % 3 === 0 ? b : a;
      if (model.has(one)) {
        await client.fs.rename(client.op, ROOT_FID, nameOf(one), ROOT_FID, nameOf(two), 0);
        model.delete(one);
        model.add(two);
      } else if (model.has(two)) {
        await client.unlink(two);
        model.delete(two);
      } else {
        await client.fs.create(client.op, ROOT_FID, nameOf(one), { mode: 0o100644, umask: 0 });
        model.add(one);
      }
    }
  })();
  for (let round = 0; round < 20; round += 1) {
    await world.time.sleep(30);
    if (round % 3 === 0) {
      await world.upgrade('1.0.0');
    } else {
      if (round % 3 === 1) world.servers.hold();
      await world.time.sleep(30);
      await world.crash();
    }
    await back(world, a, b);
  }
  stop = true;
  await world.time.within('both end', Promise.all([appender, names]));
  const g = await b.open('log', O_RDWR);
  const size = await b.size(g.fid);
  const text = (await b.read(g, 0, size)).toString();
  const expected = Array.from({ length: records }, (_, index) => `${String(index).padStart(7, '0')}\n`).join(
    '',
  );
  assert.deepEqual([text === expected, (await b.names()).sort()], [true, [...model].sort()]);
  await b.write(kept, 0, 'still open');
  assert.deepEqual([await b.text(kept), evictions(a), evictions(b)], ['still open', 0, 0]);
});

test('FIDs that were given out and not durably so are given to nobody else after a crash', async (t) => {
  const { world, a, b } = await boot(t);
  const dir = await a.mkdir('dir');
  await world.server?.target?.store.sync();
  world.servers.hold();
  // More than one range of FIDs: the next is granted while nothing is committed.
  const fids: Fid[] = [];
  const object = { mode: 0o100644, umask: 0 };
  while (fids.length < 17_000) {
    const made = Array.from({ length: 100 }, (_, index) => {
      return a.fs.create(a.op, dir, nameOf(`n${fids.length + index}`), object);
    });
    for (const { attr } of await Promise.all(made)) fids.push(attr.fid);
  }
  await world.crash();
  await back(world, a, b);
  const c = await world.client('c');
  for (const client of [a, b, c]) {
    for (let i = 0; i < 10; i += 1) fids.push((await client.create(`${client.fs.status().uuid}${i}`)).fid);
  }
  assert.equal(new Set(fids).size, fids.length);
});

test('a client cut off while another wants its lock is evicted, alone; healed it is usable, and fsync tells what was lost', async (t) => {
  const { world, a, b } = await boot(t, { lockTimeoutMs: 200 });
  const [f, other] = [await a.create('f'), await b.create('other')];
  await b.write(other, 0, 'kept');
  await a.write(f, 0, 'never stored');
  a.offline();
  const seen = await b.open('f', O_RDWR);
  assert.equal(await world.time.within('read', b.text(seen)), '');
  const parked = errnoOf(() => a.write(f, 0, 'parked'));
  const made = a.mkdir('made when it is back');
  a.online();
  await world.time.within('mkdir', made);
  assert.deepEqual(
    [
      await world.time.within('a parked write', parked),
      await errnoOf(() => a.fs.fsync(a.op, f.fh)),
      await errnoOf(() => a.fs.flush(a.op, f.fh, LOCK.owner)),
      (await b.names()).sort(),
      await b.text(other),
      [evictions(a), evictions(b)],
    ],
    ['EIO', 'EIO', 'no error', ['f', 'made when it is back', 'other'], 'kept', [1, 0]],
  );
  assert.equal(world.server?.status().clients.length, 2);
});

test('a client whose cancels are lost is evicted, alone; who waited for its locks goes on', async (t) => {
  const { a, b } = await boot(t, { lockTimeoutMs: 200 });
  const f = await a.create('f');
  await a.write(f, 0, 'x');
  await a.fs.fsync(a.op, f.fh);
  a.lose('requests');
  const seen = await a.time.within('open', b.open('f', O_RDWR));
  await b.write(seen, 0, 'y');
  assert.equal(await b.text(seen), 'y');
  await a.time.until('a is in again', () => evictions(a) === 1 && a.target.importState === 'FULL');
  assert.equal(evictions(b), 0);
});

test('an eviction leaves nobody waiting', async (t) => {
  const { world, a, b } = await boot(t);
  const [f, g] = [await a.create('f'), await a.create('g')];
  const fb = await b.open('f', O_RDWR);
  await b.fs.setLock(b.op, fb.fh, LOCK, false);
  const dir = await a.fs.open(a.op, ROOT_FID, 0);
  const waitsForLock = errnoOf(() => a.fs.setLock(a.op, f.fh, { ...LOCK, owner: '00000000000000bb' }, true));
  await world.time.until('it waits', () => a.target.appLocks === 1);
  a.lose('requests');
  const calls = [
    a.fs.fsync(a.op, g.fh),
    a.fs.fallocate(a.op, g.fh, 0, 0, 4096),
    a.fs.readdir(a.op, dir, 0, 10, false),
    a.fs.rename(a.op, ROOT_FID, nameOf('f'), ROOT_FID, nameOf('x'), 0),
    a.setattr(g.fid, { mode: 0o600 }),
  ].map((call) => errnoOf(() => call));
  const looked = a.lookup('nothing');
  world.server?.evict('a', 'the test wants it');
  assert.deepEqual(await world.time.within('all of them', Promise.all([waitsForLock, ...calls])), [
    'EIO',
    'EIO',
    'EIO',
    'EIO',
    'EIO',
    'EIO',
  ]);
  assert.equal(await world.time.within('lookup', looked), undefined);
  assert.deepEqual([a.target.rpcsInFlight, a.target.parked, a.target.dirtyBytes], [0, 0, 0]);
});

test('40 MB in an unlinked file, client evicted, crash: the space is back', async (t) => {
  const { world, a } = await boot(t);
  const free = (): number => world.server?.target?.store.availableBytes() ?? 0;
  const before = free();
  const f = await a.create('f');
  await a.unlink('f');
  for (let at = 0; at < 40; at += 1) await a.write(f, at << 20, Buffer.alloc(1 << 20, 'x'));
  await a.fs.fsync(a.op, f.fh);
  assert.ok(free() <= before - (40 << 20));
  world.server?.evict('a', 'the test wants it');
  await world.crash();
  await back(world, a);
  await world.time.until('the space is back', async () => {
    await world.server?.target?.store.sync();
    return free() >= before - 65_536;
  });
});
