/** Opens that the server does not hear of, and what it must hear in time: an open file never loses its inode. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, type LockHandle, type Name, ROOT_FID } from '../../../../src/base/ids.js';
import { RENAME_EXCHANGE } from '../../../../src/wire/meta.js';
import { decode } from '../../../../src/wire/schema.js';
import { FEATURE, FEATURES_ALL, ReplayOpens } from '../../../../src/wire/session.js';
import { ScriptedTarget } from '../../../fixtures/scripted_target.js';
import {
  type ClientWorld,
  clientWorld,
  errnoOf,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  O_WRONLY,
  scriptedWorld,
  type TestClient,
} from '../../../worlds/client_world.js';

const CONTENT = 'content';

interface Opened {
  readonly world: ClientWorld;
  readonly a: TestClient;
  readonly b: TestClient;
  readonly fid: Fid;
  /** A handle of a that the server does not know. */
  readonly file: { readonly fid: Fid; readonly fh: Awaited<ReturnType<TestClient['open']>>['fh'] };
}

function serverOpens(world: ClientWorld, fid: Fid): number {
  return world.server?.target?.opens.count(fid) ?? -1;
}

function isThere(world: ClientWorld, fid: Fid): boolean {
  return world.server?.target?.store.hasInode(fid) === true;
}

async function opened(t: TestContext): Promise<Opened> {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const made = await a.create('f');
  await a.write(made, 0, CONTENT);
  await a.close(made);
  await world.time.until('the server has closed it', () => serverOpens(world, made.fid) === 0);
  const file = await a.open('f', O_RDWR);
  assert.equal(serverOpens(world, made.fid), 0);
  return { world, a, b, fid: made.fid, file };
}

async function goesOn({ world, a, file, fid }: Opened): Promise<void> {
  assert.equal(await a.text(file), CONTENT);
  await a.write(file, 0, 'CONTENT');
  await a.fs.fsync(a.op, file.fh);
  assert.equal(serverOpens(world, fid), 1);
  a.check();
  await a.close(file);
  await world.time.until('it is destroyed with the last close', () => !isThere(world, fid));
}

/** Ways in which the file loses its name while the server does not know that it is open. */
const LOSSES: Readonly<Record<string, (opened: Opened) => Promise<unknown>>> = {
  'another client unlinks it': ({ b }) => b.unlink('f'),
  'another client renames over it': async ({ b }) => {
    await b.create('new');
    await b.fs.rename(b.op, ROOT_FID, 'new' as Name, ROOT_FID, 'f' as Name, 0);
  },
  'its own client unlinks it': ({ a }) => a.unlink('f'),
  'its own client renames over it': async ({ a }) => {
    await a.create('new');
    await a.fs.rename(a.op, ROOT_FID, 'new' as Name, ROOT_FID, 'f' as Name, 0);
  },
  'its own client unlinks both of its names': async ({ a, fid }) => {
    await a.fs.link(a.op, fid, ROOT_FID, 'g' as Name);
    await a.unlink('f');
    await a.unlink('g');
  },
  'its own client unlinks a name that an interrupted exchange has given it': async ({ world, a }) => {
    await a.create('x');
    const { op, interrupt } = a.interruptible();
    const exchanged = errnoOf(() =>
      a.fs.rename(op, ROOT_FID, 'f' as Name, ROOT_FID, 'x' as Name, RENAME_EXCHANGE),
    );
    interrupt();
    const gone = a.unlink('x');
    assert.equal(await exchanged, 'EINTR');
    await world.time.within('unlink', gone);
  },
  'its lock goes back for others, and its own client unlinks it then': async ({ a, b, fid }) => {
    await b.setattr(fid, { mode: 0o600 });
    await a.unlink('f');
  },
  'its lock goes back for others, and another client unlinks it later': async ({ a, b, fid }) => {
    await b.setattr(fid, { mode: 0o600 });
    await a.lookup('f');
    await b.unlink('f');
  },
};

for (const [how, lose] of Object.entries(LOSSES)) {
  test(`an open file goes on when ${how}`, async (t) => {
    const given = await opened(t);
    await given.world.time.within('the name goes', Promise.resolve(lose(given)));
    await goesOn(given);
  });
}

test('an open file whose name goes in an upgrade or after a crash goes on', async (t) => {
  for (const restart of ['upgrade', 'crash'] as const) {
    const given = await opened(t);
    const { world, a, b, fid } = given;
    if (restart === 'crash') await world.crash();
    else await world.upgrade('2.0.0');
    await world.time.until(
      'a is back',
      () => a.target.importState === 'FULL' && serverOpens(world, fid) === 1,
    );
    await world.time.until('b is back', () => b.target.importState === 'FULL');
    await world.time.within('unlink', b.unlink('f'));
    await goesOn(given);
  }
});

test('an open file of a client that is evicted fails, and its inode goes with its name', async (t) => {
  const { world, a, b, file, fid } = await opened(t);
  world.server?.evict('a', 'the test wants it');
  await world.time.until('a is in again', () => a.target.evictions.length === 1);
  await world.time.until('a is full', () => a.target.importState === 'FULL');
  assert.equal(await errnoOf(() => a.read(file, 0, 10)), 'EIO');
  await world.time.within('unlink', b.unlink('f'));
  await world.time.until('it is destroyed', () => !isThere(world, fid));
  a.fs.release(file.fh, undefined);
  a.check();
});

for (const knows of [true, false]) {
  test(`a file that is opened while its unlink is under way goes on (the client ${knows ? 'knows' : 'does not know'} its name)`, async (t) => {
    const { world, a, b, fid, file } = await opened(t);
    await a.close(file);
    // Takes the lock on the directory, and not the one on the file.
    if (!knows) await b.create('other');
    const unlinked = a.unlink('f');
    const again = { fid, fh: await a.fs.open(a.op, fid, O_RDWR) };
    await unlinked;
    await goesOn({ world, a, b, fid, file: again });
  });
}

test('a directory that is open goes on when another client removes it', async (t) => {
  const { world, a, b } = await opened(t);
  const dir = await a.mkdir('d');
  const fh = await a.fs.open(a.op, dir, O_RDONLY);
  assert.equal(serverOpens(world, dir), 0);
  await world.time.within('rmdir', Promise.resolve(b.fs.unlink(b.op, ROOT_FID, 'd' as Name, true)));
  assert.equal(serverOpens(world, dir), 1);
  assert.deepEqual((await a.fs.readdir(a.op, fh, 0, 10, false)).entries, []);
  a.fs.release(fh, undefined);
  await world.time.until('it is destroyed', () => !isThere(world, dir));
});

test('handles whose lock the client gives back to make room for others are told', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a', { maxLocks: 64 });
  const files: Opened['file'][] = [];
  for (let at = 0; at < 100; at++) {
    await a.close(await a.create(`f${at}`));
    files.push(await a.open(`f${at}`, O_RDWR));
  }
  const told = (): number => files.filter(({ fid }) => serverOpens(world, fid) === 1).length;
  await world.time.until('most are told', () => told() >= 50);
  assert.ok(told() < 100);
  for (let at = 0; at < 100; at++) await a.unlink(`f${at}`);
  for (const file of files) assert.equal(await a.text(file), '');
  a.check();
  for (const file of files) await a.close(file);
  await world.time.until('all are destroyed', () => !files.some(({ fid }) => isThere(world, fid)));
});

// What goes over the wire.

interface Counted {
  readonly target: ScriptedTarget;
  readonly client: TestClient;
  readonly fid: Fid;
  /** ATTR of the file. */
  readonly lock: LockHandle;
}

async function counted(t: TestContext, features: number = FEATURES_ALL): Promise<Counted> {
  const target = new ScriptedTarget();
  const locks = new Map<Fid, LockHandle>();
  target.grants = (wanted) => {
    if (wanted.type === 'inode') locks.set(wanted.fid, wanted.handle);
    return wanted;
  };
  target.features = features;
  const client = await scriptedWorld(t, [target]).client('a');
  const made = await client.create('f');
  await client.close(made);
  await client.fs.getattr(client.op, made.fid);
  await client.time.until('the close has left', () => target.of('CLOSE').length === 1);
  target.seen = [];
  const lock = locks.get(made.fid);
  assert.ok(lock !== undefined);
  return { target, client, fid: made.fid, lock };
}

function names(target: ScriptedTarget): string[] {
  return target.seen.map(({ name }) => name).filter((name) => name !== 'PING');
}

test('open and close under the lock send nothing, at any time', async (t) => {
  const { target, client, fid } = await counted(t);
  for (const flags of [O_RDONLY, O_WRONLY, O_RDWR]) {
    await client.close({ fh: await client.fs.open(client.op, fid, flags) });
  }
  await client.time.sleep(1000);
  assert.deepEqual(names(target), []);
  await client.unmount();
  assert.deepEqual(
    names(target).filter((name) => name.includes('OPEN') || name === 'CLOSE'),
    [],
  );
});

test('with O_TRUNC, and with a server from before, open and close are messages', async (t) => {
  const truncating = await counted(t);
  const { client } = truncating;
  await client.close({ fh: await client.fs.open(client.op, truncating.fid, O_RDWR | O_TRUNC) });
  await client.time.until('the close has left', () => names(truncating.target).includes('CLOSE'));
  const before = await counted(t, FEATURES_ALL & ~FEATURE.localOpens);
  await before.client.close({ fh: await before.client.fs.open(before.client.op, before.fid, O_RDONLY) });
  await before.client.time.until('the close has left', () => names(before.target).includes('CLOSE'));
  for (const { target } of [truncating, before]) assert.ok(names(target).includes('OPEN'));
});

test('the report leaves before the lock does, once for each handle, and its close follows', async (t) => {
  const { target, client, fid, lock } = await counted(t);
  const handles = [
    await client.fs.open(client.op, fid, O_RDONLY),
    await client.fs.open(client.op, fid, O_RDWR),
  ];
  target.bast(lock, fid, 'inode');
  await client.time.until('the lock is back', () => names(target).includes('CANCEL'));
  assert.deepEqual(names(target), ['REPLAY_OPENS', 'CANCEL']);
  const [report] = target.of('REPLAY_OPENS');
  assert.ok(report !== undefined);
  const { opens } = decode(ReplayOpens.request, report.body);
  assert.deepEqual(
    opens.map(({ fh, flags }) => [fh, flags]),
    [
      [handles[0], O_RDONLY],
      [handles[1], O_RDWR],
    ],
  );
  for (const fh of handles) await client.close({ fh });
  await client.time.until('the closes have left', () => names(target).includes('CLOSE'));
  assert.equal(names(target).filter((name) => name === 'REPLAY_OPENS').length, 1);
});
