/** What a client executes by itself in its own directories, and what becomes of that when others come, or somebody goes. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { ROOT_FID } from '../../../../src/base/ids.js';
import { FEATURE, FEATURES_ALL } from '../../../../src/wire/session.js';
import { ScriptedTarget } from '../../../fixtures/scripted_target.js';
import {
  type ClientWorld,
  clientWorld,
  errnoOf,
  O_EXCL,
  O_RDONLY,
  O_RDWR,
  scriptedWorld,
  type TestClient,
} from '../../../worlds/client_world.js';
import {
  atOnce,
  create,
  mkdir,
  nameOf,
  put,
  rename,
  setting,
  textOf,
} from '../../../worlds/own_directory.js';

test('what a program does in a directory of its client alone asks nobody, and others see it all', async (t) => {
  const { world, a, b, d } = await setting(t);
  const kept = await put(a, d, 'kept', 'hello');
  const when = { sec: 1_000_000, nsec: 7 };
  atOnce(a.fs.setattr(a.op, kept, { mtime: when, atime: when, killSuidgid: false }));
  atOnce(a.fs.setattr(a.op, kept, { mode: 0o600, killSuidgid: false }));
  await put(a, d, 'tmp', 'renamed');
  rename(a, d, 'tmp', d, 'final');
  await put(a, d, 'new', 'replaces');
  rename(a, d, 'new', d, 'final');
  await put(a, d, 'gone', 'x');
  atOnce(a.fs.unlink(a.op, d, nameOf('gone'), false));
  const sub = mkdir(a, d, 'sub');
  await put(a, sub, 'inside', 'deep');
  mkdir(a, d, 'empty');
  atOnce(a.fs.unlink(a.op, d, nameOf('empty'), true));
  const link = { mode: 0o120777, umask: 0, linkText: Buffer.from('kept') };
  atOnce(a.fs.create(a.op, d, nameOf('link'), link));
  assert.ok(a.target.changes > 3, 'they wait to be sent');
  const [mine, listed] = [await a.fs.getattr(a.op, d), await a.names(d)];
  a.check();
  assert.deepEqual(listed, ['final', 'kept', 'link', 'sub']);
  assert.deepEqual(await b.names(d), listed);
  const theirs = await b.fs.getattr(b.op, d);
  assert.deepEqual(theirs.attr, mine.attr, 'the server keeps what the client has told');
  assert.equal(mine.attr.nlink, 3);
  const seen = await b.lookup('kept', d);
  assert.deepEqual([seen?.attr.mode, seen?.attr.mtime, seen?.attr.sizeBytes], [0o100600, when, 5]);
  assert.deepEqual(seen?.attr, (await a.lookup('kept', d))?.attr);
  assert.deepEqual([await textOf(b, d, 'final'), await textOf(b, sub, 'inside')], ['replaces', 'deep']);
  assert.equal(await errnoOf(() => b.open('gone', O_RDONLY, d)), 'ENOENT');
  await world.time.until('the log is empty', () => a.target.changes === 0);
  a.check();
  b.check();
});

test('an old directory becomes an own one when its client makes one name after the other there', async (t) => {
  const { a, b, d } = await setting(t);
  await b.names(d);
  const isLocal: boolean[] = [];
  for (let at = 0; at < 12; at++) {
    await a.lookup(`f${at}`, d);
    const made = a.fs.create(a.op, d, nameOf(`f${at}`), { mode: 0o100644, umask: 0 });
    isLocal.push(!(made instanceof Promise));
    await made;
  }
  assert.deepEqual([isLocal[0], isLocal[6]], [false, false]);
  // Another client has just looked in, so the first ones wait for a second to pass.
  await a.time.sleep(1100);
  for (let at = 12; at < 30; at++) {
    await a.lookup(`f${at}`, d);
    const made = a.fs.create(a.op, d, nameOf(`f${at}`), { mode: 0o100644, umask: 0 });
    isLocal.push(!(made instanceof Promise));
    await made;
  }
  assert.equal(isLocal.at(-1), true);
  assert.equal((await b.names(d)).length, 30);
});

const INTRUSIONS: Readonly<Record<string, (b: TestClient, d: Fid, fid: Fid) => Promise<unknown>>> = {
  lists: (b, d) => b.names(d),
  'looks up a name': (b, d) => b.lookup('f', d),
  'makes a name': (b, d) => b.create('other', O_RDWR, d),
  'removes the file': (b, d) => b.unlink('f', d),
  'changes the directory': (b, d) => b.setattr(d, { mode: 0o700 }),
  'moves the directory': async (b) => b.fs.rename(b.op, ROOT_FID, nameOf('d'), ROOT_FID, nameOf('e'), 0),
  'writes the file': async (b, d) => {
    const file = await b.open('f', O_RDWR, d);
    await b.write(file, 0, 'B');
    await b.close(file);
  },
  'links the file': async (b, d) => {
    const found = await b.lookup('f', d);
    assert.ok(found !== undefined);
    await b.fs.link(b.op, found.attr.fid, ROOT_FID, nameOf('second'));
  },
};

for (const [what, intrude] of Object.entries(INTRUSIONS)) {
  test(`another client ${what} while the owner goes on: both see one order of things`, async (t) => {
    const { world, a, b, d } = await setting(t);
    const fid = await put(a, d, 'f', 'content');
    const open = await a.open('f', O_RDWR, d);
    const intruded = intrude(b, d, fid);
    // In the same turns in which the lock is called back.
    for (let at = 0; at < 50; at++) {
      await put(a, d, `n${at}`, `n${at}`).catch(() => a.create(`n${at}`, O_RDWR, d));
      await a.setattr(fid, { mode: 0o640 }).catch(() => undefined);
      await Promise.resolve();
    }
    await world.time.within(what, intruded);
    assert.deepEqual(await b.names(d), await a.names(d));
    assert.equal((await b.names(d)).filter((name) => name.startsWith('n')).length, 50);
    assert.equal((await a.text(open)).length, 7, 'the open file goes on');
    await a.close(open);
    for (const client of [a, b]) client.check();
    assert.deepEqual((await a.fs.getattr(a.op, d)).attr, (await b.fs.getattr(b.op, d)).attr);
  });
}

test('two clients that make names in turn in one directory wait for each other as ever', async (t) => {
  const { a, b, d } = await setting(t);
  for (let at = 0; at < 20; at++) {
    await a.create(`a${at}`, O_RDWR | O_EXCL, d).catch((error) => assert.fail(error));
    await b.create(`b${at}`, O_RDWR | O_EXCL, d);
  }
  assert.equal((await a.names(d)).length, 40);
  assert.deepEqual(await a.names(d), await b.names(d));
});

/** Does something of everything in the directory. @returns what a fresh look must find. */
async function busy(a: TestClient, d: Fid): Promise<Map<string, string>> {
  const expected = new Map<string, string>();
  for (let at = 0; at < 40; at++) {
    const content = `content ${at}`.repeat(1 + (at % 5) * 200);
    const fid = await put(a, d, `tmp${at}`, content);
    await a.setattr(fid, { mode: 0o600 + (at % 8) });
    if (at % 3 === 0) await a.fs.rename(a.op, d, nameOf(`tmp${at}`), d, nameOf(`f${at}`), 0);
    expected.set(at % 3 === 0 ? `f${at}` : `tmp${at}`, content);
    if (at % 7 === 0) {
      await a.unlink(at % 3 === 0 ? `f${at}` : `tmp${at}`, d);
      expected.delete(at % 3 === 0 ? `f${at}` : `tmp${at}`);
    }
  }
  return expected;
}

async function sameAs(client: TestClient, d: Fid, expected: ReadonlyMap<string, string>): Promise<void> {
  assert.deepEqual(await client.names(d), [...expected.keys()].sort());
  for (const [name, content] of expected) assert.equal(await textOf(client, d, name), content, name);
}

const ENDS: Readonly<Record<string, (world: ClientWorld, a: TestClient) => Promise<unknown>>> = {
  'a crash before anything was sent': (world) => world.crash(),
  'a crash after the server has executed it, without an answer': async (world, a) => {
    a.lose('answers');
    await world.time.sleep(4);
    await world.crash();
  },
  'a crash after the answers, before they are durable': async (world) => {
    await world.time.sleep(12);
    await world.crash();
  },
  'a crash when it is durable and not answered': async (world, a) => {
    a.lose('answers');
    await world.time.sleep(200);
    await world.crash();
  },
  'two crashes': async (world) => {
    await world.time.sleep(3);
    await world.crash();
    await world.time.sleep(3);
    await world.crash();
  },
  'a broken connection': async (world, a) => {
    await world.time.sleep(3);
    a.breakConnection();
  },
  'lost answers and a broken connection': async (world, a) => {
    a.lose('answers');
    await world.time.sleep(20);
    a.breakConnection();
  },
  'an upgrade': (world) => world.upgrade('2.0.0'),
};

for (const [how, end] of Object.entries(ENDS)) {
  test(`everything that was answered is there after ${how}`, async (t) => {
    const { world, a, b, d } = await setting(t);
    const open = create(a, d, 'open');
    await a.write(open, 0, 'before');
    const expected = await busy(a, d);
    const told = await a.fs.getattr(a.op, open.fid);
    await end(world, a);
    await world.time.until('a is back', () => a.target.importState === 'FULL' && a.target.gate === 'OPEN');
    await world.time.until('b is back', () => b.target.importState === 'FULL');
    await put(a, d, 'later', 'later').catch(() => a.create('later', O_RDWR, d));
    await a.write(open, 6, ' and after');
    await a.fs.fsync(a.op, open.fh);
    a.check();
    assert.equal(await a.text(open), 'before and after');
    await sameAs(
      a,
      d,
      new Map([...expected, ['open', 'before and after'], ['later', await textOf(a, d, 'later')]]),
    );
    await sameAs(
      b,
      d,
      new Map([...expected, ['open', 'before and after'], ['later', await textOf(a, d, 'later')]]),
    );
    const seen = await b.fs.getattr(b.op, open.fid);
    assert.deepEqual(seen.attr.btime, told.attr.btime, 'made when its program was told');
    a.check();
    b.check();
  });
}

test('an eviction is told: by descriptors, by fsync of the directory once, and in the count of what is lost', async (t) => {
  const { world, a, d } = await setting(t);
  const dir = await a.fs.open(a.op, d, O_RDONLY);
  const file = create(a, d, 'f');
  await a.write(file, 0, 'lost');
  for (let at = 0; at < 10; at++) create(a, d, `n${at}`);
  world.server?.evict('a', 'the test wants it');
  await world.time.until('a is in again', () => a.target.evictions.length === 1);
  await world.time.until('a is full', () => a.target.importState === 'FULL');
  assert.equal(a.target.evictions[0]?.uncommitted, 12, 'eleven files, and the directory that is not durable');
  assert.equal(await errnoOf(() => a.fs.fsync(a.op, file.fh)), 'EIO');
  assert.equal(await errnoOf(() => a.fs.fsync(a.op, dir)), 'EIO');
  assert.equal(await errnoOf(() => a.write(file, 0, 'x')), 'EIO');
  a.check();
  assert.deepEqual(await a.names(d), []);
  assert.equal(a.target.changes, 0);
});

test('fsync of a file, and of a directory, waits until all that was done before is durable', async (t) => {
  const { world, a, b, d } = await setting(t);
  const sub = mkdir(a, d, 'sub');
  const file = create(a, sub, 'f');
  await a.write(file, 0, 'synced');
  await a.fs.fsync(a.op, file.fh);
  a.offline();
  await world.crash();
  assert.deepEqual([await b.names(d), await textOf(b, sub, 'f')], [['sub'], 'synced']);
});

test('what a directory lets its files inherit, the server decides: with a default ACL nothing is made here', async (t) => {
  const { a, b, d } = await setting(t);
  const entry = (tag: number, perm: number): number[] => [tag, 0, perm, 0, 0xff, 0xff, 0xff, 0xff];
  const acl = Buffer.from([2, 0, 0, 0, ...entry(1, 7), ...entry(4, 5), ...entry(0x20, 0)]);
  create(a, d, 'before');
  await a.fs.setxattr(a.op, d, 'system.posix_acl_default', acl, 0, false);
  const made = a.fs.create(a.op, d, nameOf('after'), { mode: 0o100666, umask: 0 });
  assert.ok(made instanceof Promise);
  assert.equal((await made).attr.mode & 0o777, 0o640);
  assert.equal((await b.lookup('after', d))?.attr.mode, 0o100640);
});

test('set-group-id directories, umask and owners: as the server would have made it', async (t) => {
  const { a, b, d } = await setting(t);
  atOnce(a.fs.setattr(a.op, d, { mode: 0o042777, gid: 77, killSuidgid: false }));
  const op = { uid: 5, gid: 6, signal: new AbortController().signal };
  atOnce(a.fs.create(op, d, nameOf('f'), { mode: 0o100666, umask: 0o027 }));
  atOnce(a.fs.create(op, d, nameOf('sub'), { mode: 0o040777, umask: 0o027 }));
  for (const [name, mode] of [
    ['f', 0o100640],
    ['sub', 0o042750],
  ] as const) {
    const [mine, theirs] = [await a.lookup(name, d), await b.lookup(name, d)];
    assert.deepEqual(mine?.attr, theirs?.attr);
    assert.deepEqual([mine?.attr.mode, mine?.attr.uid, mine?.attr.gid], [mode, 5, 77]);
  }
});

test('a name that an interrupted operation may have changed is not changed here', async (t) => {
  const { world, a, d } = await setting(t);
  const fid = await put(a, d, 'f', 'x');
  await world.time.until('all is there', () => a.target.changes + a.target.dirtyBytes === 0);
  a.lose('answers');
  const { op, interrupt } = a.interruptible();
  const linked = errnoOf(() => a.fs.link(op, fid, d, nameOf('g')));
  interrupt();
  assert.equal(await linked, 'EINTR');
  const made = a.fs.create(a.op, d, nameOf('h'), { mode: 0o100644, umask: 0 });
  const changed = a.fs.setattr(a.op, fid, { mode: 0o600, killSuidgid: false });
  assert.deepEqual([made instanceof Promise, changed instanceof Promise], [true, true]);
  a.breakConnection();
  await world.time.within('both', Promise.all([made, changed]));
  assert.deepEqual(await a.names(d), ['f', 'g', 'h']);
  a.check();
});

test('a small meta device: what was answered is there, whatever found no room', async (t) => {
  const world = await clientWorld(t, {}, { metaBytes: 16 << 20 });
  const [a, b] = [await world.client('a'), await world.client('b')];
  const dirs = [await a.mkdir('da'), await b.mkdir('db')];
  const made: string[][] = [[], []];
  const long = 'n'.repeat(200);
  await Promise.all(
    [a, b].map(async (client, which) => {
      for (let at = 0; at < 20_000; at++) {
        const name = `${at}${long}`;
        const error = await errnoOf(() =>
          client.fs.create(client.op, dirs[which] as Fid, nameOf(name), { mode: 0o100644, umask: 0 }),
        );
        if (error === 'ENOSPC') return;
        assert.equal(error, 'no error');
        made[which]?.push(name);
      }
      assert.fail('it was never full');
    }),
  );
  assert.ok((made[0]?.length ?? 0) > 100);
  assert.deepEqual([a.target.evictions, b.target.evictions], [[], []]);
  assert.deepEqual(await b.names(dirs[0]), made[0]?.toSorted());
  assert.deepEqual(await a.names(dirs[1]), made[1]?.toSorted());
  for (const name of made[0] ?? []) await a.unlink(name, dirs[0] as Fid);
  assert.deepEqual(await a.names(dirs[0]), []);
});

test('a client that may keep few locks forgets what it made, and goes on', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a', { maxLocks: 32 }), await world.client('b')];
  const d = await a.mkdir('d');
  const expected = new Map<string, string>();
  for (let at = 0; at < 300; at++) {
    const file = await a.create(`f${at}`, O_RDWR, d);
    await a.write(file, 0, `content ${at}`);
    await a.setattr(file.fid, { mode: 0o600 });
    await a.close(file);
    expected.set(`f${at}`, `content ${at}`);
    if (at > 100 && at % 3 === 0) {
      await a.unlink(`f${at - 100}`, d);
      expected.delete(`f${at - 100}`);
    }
    if (at % 20 !== 0) continue;
    await world.time.sleep(5);
    a.check();
  }
  await sameAs(a, d, expected);
  await sameAs(b, d, expected);
  assert.deepEqual(a.target.evictions, []);
  assert.ok(a.target.locks < 100);
});

test('with sync-metadata, and with a server from before, nothing is executed here', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a', { syncMetadata: true });
  const d = await a.mkdir('d');
  assert.ok(a.fs.create(a.op, d, nameOf('f'), { mode: 0o100644, umask: 0 }) instanceof Promise);
  const target = new ScriptedTarget();
  target.features = FEATURES_ALL & ~FEATURE.batch;
  const old = await scriptedWorld(t, [target]).client('a');
  await old.mkdir('d');
  await old.create('f');
  assert.deepEqual(target.of('BATCH'), []);
});
