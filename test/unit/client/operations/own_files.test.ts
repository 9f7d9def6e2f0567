/** Files that were in a directory before its client came to own it: what their own locks let the client do, and what ends that. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { ROOT_FID } from '../../../../src/base/ids.js';
import type { ClientOptions } from '../../../../src/client/api.js';
import {
  type ClientWorld,
  clientWorld,
  errnoOf,
  O_RDONLY,
  O_RDWR,
  type TestClient,
} from '../../../worlds/client_world.js';
import { atOnce, nameOf, textOf } from '../../../worlds/own_directory.js';

const FILES = 20;
/** So many removals in a row, and the client owns the directory. */
const REMOVED = 4;

interface Setting {
  readonly world: ClientWorld;
  /** It owns `d`, and what is in it. */
  readonly a: TestClient;
  readonly b: TestClient;
  readonly d: Fid;
}

function unlink(a: TestClient, d: Fid, name: string) {
  return a.fs.unlink(a.op, d, nameOf(name), false);
}
function chmod(a: TestClient, fid: Fid, mode: number) {
  return a.fs.setattr(a.op, fid, { mode, killSuidgid: false });
}
function move(a: TestClient, parent: Fid, name: string, newParent: Fid, newName: string) {
  return a.fs.rename(a.op, parent, nameOf(name), newParent, nameOf(newName), 0);
}
const isAtOnce = (answer: unknown): boolean => !(answer instanceof Promise);

async function fidOf(a: TestClient, d: Fid, name: string): Promise<Fid> {
  const found = await a.lookup(name, d);
  assert.ok(found !== undefined);
  return found.attr.fid;
}

async function quiet(world: ClientWorld, a: TestClient): Promise<void> {
  await world.time.until('all is there', () => a.target.changes + a.target.dirtyBytes === 0);
}

function ownFileLocks(a: TestClient): number {
  return a.fs.heldLocks().filter(({ type, mode, bits }) => type === 'inode' && mode === 'EX' && bits === 2)
    .length;
}

/**
 * A directory with files f0 to f19 that were there before. Client `a` has removed the first four in a row.
 * @param meanwhile before `a` comes to own the directory.
 */
async function setting(
  t: TestContext,
  options: Partial<ClientOptions> = {},
  meanwhile: (setting: Setting) => Promise<unknown> = async () => undefined,
): Promise<Setting> {
  const world = await clientWorld(t);
  const [maker, b] = [await world.client('maker'), await world.client('b')];
  const a = await world.client('a', options);
  const d = await maker.mkdir('d');
  for (let at = 0; at < FILES; at++) {
    const file = await maker.create(`f${at}`, O_RDWR, d);
    await maker.write(file, 0, `content ${at}`);
    await maker.close(file);
  }
  await maker.unmount();
  const all = { world, a, b, d };
  await meanwhile(all);
  await a.names(d);
  for (let at = 0; at < REMOVED; at++) await unlink(a, d, `f${at}`);
  await quiet(world, a);
  // Until the locks of what it has removed are gone.
  await world.time.sleep(500);
  return all;
}

test('a client that removes old files one after the other soon asks nobody, and others see it all', async (t) => {
  const { a, b, d } = await setting(t);
  const [f5, f6] = [await fidOf(a, d, 'f5'), await fidOf(a, d, 'f6')];
  atOnce(unlink(a, d, 'f4'));
  atOnce(chmod(a, f5, 0o600));
  const when = { sec: 1_000_000, nsec: 7 };
  atOnce(a.fs.setattr(a.op, f6, { mtime: when, atime: when, killSuidgid: false }));
  atOnce(move(a, d, 'f5', d, 'moved'));
  atOnce(move(a, d, 'f7', d, 'f8'));
  a.check();
  const mine = await a.names(d);
  assert.deepEqual(await b.names(d), mine);
  assert.equal(mine.length, FILES - REMOVED - 2);
  assert.equal((await b.lookup('moved', d))?.attr.mode, 0o100600);
  assert.deepEqual((await b.lookup('f6', d))?.attr.mtime, when);
  assert.deepEqual([await textOf(b, d, 'moved'), await textOf(b, d, 'f8')], ['content 5', 'content 7']);
  assert.deepEqual([a.target.evictions, b.target.evictions], [[], []]);
  a.check();
});

for (const [what, change] of Object.entries({
  'renames them': (a: TestClient, d: Fid, at: number) => move(a, d, `f${at}`, d, `g${at}`),
  'changes their attributes': async (a: TestClient, d: Fid, at: number) =>
    chmod(a, await fidOf(a, d, `f${at}`), 0o600),
})) {
  test(`a client comes to own an old directory when it ${what}`, async (t) => {
    const { a, b, d } = await setting(t, {}, async ({ a, d }) => {
      for (let at = 10; at < 14; at++) await change(a, d, at);
    });
    assert.ok(ownFileLocks(a) > 0);
    assert.deepEqual(await a.names(d), await b.names(d));
  });
}

test('a file that another client has open and looks at by its handle shows what the owner did before', async (t) => {
  let open: { fid: Fid; fh: number } | undefined;
  const { world, a, b, d } = await setting(t, {}, async ({ a, b, d }) => {
    // It gives back what it may cache, and keeps the handle.
    const theirs = await b.open('f10', O_RDONLY, d);
    open = theirs;
    const mine = await a.open('f10', O_RDWR, d);
    await a.write(mine, 0, 'CONTENT');
    await a.fs.fsync(a.op, mine.fh);
    await chmod(a, mine.fid, 0o640);
    await a.close(mine);
  });
  assert.ok(open !== undefined);
  const { fid } = open;
  atOnce(chmod(a, fid, 0o600));
  atOnce(move(a, d, 'f10', d, 'moved'));
  const [seen, again] = await Promise.all([b.fs.getattr(b.op, fid), chmod(a, fid, 0o604)]);
  assert.ok([0o100600, 0o100604].includes(seen.attr.mode), seen.attr.mode.toString(8));
  assert.equal(again.attr.mode, 0o100604);
  a.check();
  // The directory is still its own; the file is not.
  const isLocal = isAtOnce(unlink(a, d, 'f11'));
  assert.deepEqual([isLocal, isAtOnce(chmod(a, fid, 0o644))], [true, false]);
  await quiet(world, a);
  assert.equal((await b.fs.getattr(b.op, fid)).attr.mode, 0o100644);
  // Removed, it lives on for its reader.
  await unlink(a, d, 'moved');
  assert.equal((await b.fs.getattr(b.op, fid)).attr.nlink, 0);
  assert.deepEqual([a.target.evictions, b.target.evictions], [[], []]);
});

test('a file is removed by itself while another client reads it through a handle without a lock on its attributes', async (t) => {
  const { world, a, b, d } = await setting(t);
  // By its number, as a file handle of the kernel would: without a look at the directory.
  const fid = await fidOf(a, d, 'f10');
  const fh = await b.fs.open(b.op, fid, O_RDONLY);
  assert.equal(isAtOnce(unlink(a, d, 'f10')), false, 'b has the attributes');
  await quiet(world, a);
  assert.equal(await b.text({ fid, fh }), 'content 10');
  assert.equal((await b.fs.getattr(b.op, fid)).attr.nlink, 0);
  assert.deepEqual([a.target.evictions, b.target.evictions], [[], []]);
});

test('what another client has in its caches, or a second name, the server changes', async (t) => {
  const { a, d } = await setting(t, {}, async ({ b, d }) => {
    const f10 = await b.open('f10', O_RDONLY, d);
    await b.text(f10);
    await b.fs.link(b.op, await fidOf(b, d, 'f11'), d, nameOf('f11 too'));
  });
  const results = [unlink(a, d, 'f12'), unlink(a, d, 'f10'), unlink(a, d, 'f11')];
  assert.deepEqual(results.map(isAtOnce), [true, false, false]);
  await Promise.all(results);
  assert.equal((await a.lookup('f11 too', d))?.attr.nlink, 1);
});

test('what is open here the server removes, and it lives on', async (t) => {
  const { world, a, d } = await setting(t);
  const open = await a.open('f10', O_RDONLY, d);
  const removed = unlink(a, d, 'f10');
  assert.equal(isAtOnce(removed), false);
  await removed;
  await world.time.sleep(1000);
  assert.equal(await a.text(open), 'content 10');
  await a.close(open);
  a.check();
});

test('own locks on files go back with that of their directory', async (t) => {
  const { world, a, b, d } = await setting(t);
  assert.equal(ownFileLocks(a), FILES - REMOVED);
  const looked = b.names(d);
  // In the turns in which it is called back.
  for (let at = 4; at < 10; at++) {
    await unlink(a, d, `f${at}`);
    await Promise.resolve();
  }
  const seen = await world.time.within('b lists', looked);
  assert.ok(seen.length >= 10 && seen.length <= FILES - REMOVED, `${seen}`);
  await world.time.sleep(500);
  assert.equal(ownFileLocks(a), 0);
  assert.deepEqual(await b.names(d), await a.names(d));
  a.check();
  b.check();
});

test('a file that moves to a directory that is not own has no own lock any more', async (t) => {
  const { world, a, b, d } = await setting(t);
  const before = ownFileLocks(a);
  await move(a, d, 'f10', ROOT_FID, 'moved');
  await quiet(world, a);
  await world.time.sleep(100);
  assert.equal(ownFileLocks(a), before - 1);
  assert.equal(await textOf(b, ROOT_FID, 'moved'), 'content 10');
  atOnce(unlink(a, d, 'f11'));
});

for (const [how, end] of Object.entries({
  'a crash before anything was sent': (world: ClientWorld) => world.crash(),
  'a crash after the server has executed it, without an answer': async (
    world: ClientWorld,
    a: TestClient,
  ) => {
    a.lose('answers');
    await world.time.sleep(4);
    await world.crash();
  },
  'a crash after the answers, before they are durable': async (world: ClientWorld) => {
    await world.time.sleep(12);
    await world.crash();
  },
  'a broken connection': async (world: ClientWorld, a: TestClient) => {
    await world.time.sleep(3);
    a.breakConnection();
  },
  'an upgrade': (world: ClientWorld) => world.upgrade('2.0.0'),
})) {
  test(`what was changed of old files is there after ${how}, and the client goes on`, async (t) => {
    const { world, a, b, d } = await setting(t);
    const fid = await fidOf(a, d, 'f10');
    atOnce(chmod(a, fid, 0o600));
    atOnce(move(a, d, 'f10', d, 'moved'));
    for (let at = 4; at < 10; at++) atOnce(unlink(a, d, `f${at}`));
    atOnce(move(a, d, 'f11', d, 'f12'));
    await end(world, a);
    await world.time.until('a is back', () => a.target.importState === 'FULL' && a.target.gate === 'OPEN');
    for (let at = 13; at < 16; at++) await unlink(a, d, `f${at}`);
    a.check();
    const names = await b.names(d);
    assert.deepEqual(names, ['f12', 'f16', 'f17', 'f18', 'f19', 'moved']);
    assert.equal((await b.lookup('moved', d))?.attr.mode, 0o100600);
    assert.equal(await textOf(b, d, 'f12'), 'content 11');
    assert.deepEqual(await a.names(d), names);
    assert.deepEqual([a.target.evictions, b.target.evictions], [[], []]);
    a.check();
    b.check();
  });
}

test('an own lock on a file that is called back after a crash waits for what is not sent', async (t) => {
  const { world, a, b, d } = await setting(t);
  const fid = await fidOf(a, d, 'f10');
  await world.crash();
  await world.time.until('a is back', () => a.target.importState === 'FULL' && a.target.gate === 'OPEN');
  assert.equal(ownFileLocks(a), FILES - REMOVED);
  // The new instance promises no room before it is asked.
  await chmod(a, fid, 0o604);
  await world.time.sleep(100);
  atOnce(chmod(a, fid, 0o600));
  assert.equal((await b.fs.getattr(b.op, fid)).attr.mode, 0o100600);
});

test('a client that may keep few locks removes old files all the same', async (t) => {
  const { world, a, b, d } = await setting(t, { maxLocks: 16 });
  for (let at = REMOVED; at < FILES; at++) {
    if (at % 3 === 0) await move(a, d, `f${at}`, d, `g${at}`);
    else await unlink(a, d, `f${at}`);
    await world.time.sleep(2);
    a.check();
  }
  assert.deepEqual(await b.names(d), ['g12', 'g15', 'g18', 'g6', 'g9']);
  assert.deepEqual(a.target.evictions, []);
});

test('two clients that remove old files in turn in one directory do not wait for each other for long', async (t) => {
  const { a, b, d } = await setting(t);
  for (let at = REMOVED; at < FILES; at++) {
    const [mine, other] = at % 2 === 0 ? [a, b] : [b, a];
    await unlink(mine, d, `f${at}`);
    assert.equal(await errnoOf(() => other.open(`f${at}`, O_RDONLY, d)), 'ENOENT');
  }
  assert.deepEqual([await a.names(d), await b.names(d)], [[], []]);
});
