/** What operations cost in messages: figures that must not grow. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import {
  type ClientWorld,
  clientWorld,
  O_CREAT,
  O_EXCL,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  type TestClient,
} from '../../worlds/client_world.js';

const MIB = 1 << 20;
/** Pings and the like, in the few seconds that a test takes. */
const CONNECTION_REQUESTS = 3;

function requests({ servers }: ClientWorld): number {
  return servers.runtime.counted.get('holdfast_server_requests_total') ?? 0;
}

/** @returns the number of requests that reached the server meanwhile, and in the second after it. */
async function counted(world: ClientWorld, run: () => Promise<unknown>): Promise<number> {
  await world.time.sleep(1000);
  const before = requests(world);
  await run();
  await world.time.sleep(1000);
  return requests(world) - before;
}

function atMost(count: number, limit: number): void {
  assert.ok(count <= limit + CONNECTION_REQUESTS, `${count} requests, at most ${limit} are right`);
}

test('stat, and open with read and close, of a file in the cache cost no message', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const made = await a.create('f');
  await a.write(made, 0, 'content');
  await a.close(made);
  await a.text(await a.open('f', O_RDONLY));
  const count = await counted(world, async () => {
    for (let round = 0; round < 100; round++) {
      await a.fs.getattr(a.op, made.fid);
      const file = await a.open('f', O_RDONLY);
      assert.equal(await a.text(file), 'content');
      await a.close(file);
    }
  });
  atMost(count, 0);
});

test('names that others have made, looked up one after the other, come together, and small contents with them', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const d = await a.mkdir('d');
  const names = Array.from({ length: 50 }, (_, at) => `f${at}`);
  for (const name of names) {
    const made = await a.create(name, O_RDWR, d);
    await a.write(made, 0, name);
    await a.close(made);
  }
  await a.unmount();
  const count = await counted(world, async () => {
    for (const name of names) {
      const file = await b.open(name, O_RDONLY, d);
      assert.equal(await b.text(file), name);
      await b.close(file);
    }
  });
  atMost(count, 7);
});

/** What tar does for one file. */
const CALLS_OF_TAR = 7;

test('unpacking an archive costs at most one message for 16 operations', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const [files, perDirectory] = [600, 20];
  const when = { sec: 1_000_000, nsec: 0 };
  const count = await counted(world, async () => {
    let directory = 1 as Fid;
    for (let at = 0; at < files; at++) {
      if (at % perDirectory === 0) directory = await a.mkdir(`d${at}`);
      const name = `f${at}` as Name;
      assert.equal(await a.lookup(name, directory), undefined);
      const object = { mode: 0o100600, umask: 0o022 };
      const { known, fh } = await a.fs.createAndOpen(
        a.op,
        directory,
        name,
        object,
        O_WRONLY | O_CREAT | O_EXCL,
      );
      const { fid } = known.attr;
      await a.write({ fid, fh }, 0, Buffer.alloc(3000, 'x'));
      const of = { fh, killSuidgid: false };
      await a.fs.setattr(a.op, fid, { ...of, atime: when, mtime: when });
      await a.fs.setattr(a.op, fid, { ...of, uid: 7, gid: 8 });
      await a.fs.setattr(a.op, fid, { ...of, mode: 0o644 });
      await a.close({ fh });
      // As long as a real one takes.
      if (at % 2 === 0) await world.time.sleep(1);
    }
  });
  atMost(count, (files * CALLS_OF_TAR) / 16);
});

test('reading a file from its beginning to its end costs a message for each MiB, and a few to begin with', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const made = await a.create('f');
  const mib = Buffer.alloc(MIB, 'x');
  for (let at = 0; at < 64; at++) await a.write(made, at * MIB, mib);
  await a.fs.fsync(a.op, made.fh);
  await a.unmount();
  const count = await counted(world, async () => {
    const file = await b.open('f', O_RDONLY);
    for (let at = 0; at < 64 * MIB; at += MIB / 8)
      assert.equal((await b.read(file, at, MIB / 8)).length, MIB / 8);
    await b.close(file);
  });
  // The first ones are smaller. For 1 GiB it is 7 percent.
  atMost(count, 64 + 9);
});

/** A tree that its maker has left: directories d0, d1 ... with files f0, f1 ... each. */
async function oldTree(world: ClientWorld, directories: number, files: number): Promise<Fid[]> {
  const maker = await world.client('maker');
  const made: Fid[] = [];
  for (let index = 0; index < directories; index++) {
    const directory = await maker.mkdir(`d${index}`);
    for (let at = 0; at < files; at++) await maker.close(await maker.create(`f${at}`, O_RDWR, directory));
    made.push(directory);
  }
  await maker.unmount();
  return made;
}

const CHANGES: Readonly<Record<string, (a: TestClient, d: Fid, name: Name) => unknown>> = {
  unlink: (a, d, name) => a.fs.unlink(a.op, d, name, false),
  rename: (a, d, name) => a.fs.rename(a.op, d, name, d, `new ${name}` as Name, 0),
};

for (const [what, change] of Object.entries(CHANGES)) {
  test(`after the first few, ${what} of old files waits for no message, and costs one for 8 of them`, async (t) => {
    const world = await clientWorld(t);
    const a = await world.client('a');
    const [d] = await oldTree(world, 1, 400);
    assert.ok(d !== undefined);
    await a.names(d);
    let waited = 0;
    const count = await counted(world, async () => {
      for (let at = 0; at < 400; at++) {
        const answer = change(a, d, `f${at}` as Name);
        if (answer instanceof Promise) waited += 1;
        await answer;
        if (at % 4 === 0) await world.time.sleep(1);
      }
    });
    assert.ok(waited <= 4, `${waited} calls have waited`);
    atMost(count, 400 / 8);
  });
}

test('names that are looked up before they are made in an old directory cost at most a message for 4 of them', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const [d] = await oldTree(world, 1, 400);
  assert.ok(d !== undefined);
  let asked = 0;
  const count = await counted(world, async () => {
    for (let at = 0; at < 400; at++) {
      await a.lookup(`f${at}`, d);
      const looked = a.fs.lookup(a.op, d, `new ${at}` as Name);
      if (looked instanceof Promise) asked += 1;
      await looked;
      await a.fs.rename(a.op, d, `f${at}` as Name, d, `new ${at}` as Name, 0);
    }
  });
  assert.ok(asked <= 8, `${asked} names were looked up at the server`);
  atMost(count, 400 / 4);
});

test('chmod of old files in an own directory waits for no message after the first few', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const [d] = await oldTree(world, 1, 400);
  assert.ok(d !== undefined);
  let waited = 0;
  const fids: Fid[] = [];
  for (const name of await a.names(d)) fids.push((await a.lookup(name, d))?.attr.fid ?? d);
  const count = await counted(world, async () => {
    for (const fid of fids) {
      const answer = a.fs.setattr(a.op, fid, { mode: 0o600, killSuidgid: false });
      if (answer instanceof Promise) waited += 1;
      await answer;
    }
  });
  assert.ok(waited <= 4, `${waited} calls have waited`);
  atMost(count, 4 + 400 / 32);
});

test('rm -r of an old tree costs at most one message for 8 names', async (t) => {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const [directories, files] = [40, 40];
  const made = await oldTree(world, directories, files);
  const count = await counted(world, async () => {
    for (const [index, d] of made.entries()) {
      for (const name of await a.names(d)) {
        await a.fs.unlink(a.op, d, name as Name, false);
      }
      await a.fs.unlink(a.op, ROOT_FID, `d${index}` as Name, true);
    }
  });
  assert.deepEqual(await a.names(), []);
  atMost(count, (directories * files) / 8);
});

test('a machine that lists a directory with thousands of own locks causes one callback', async (t) => {
  const world = await clientWorld(t);
  const [a, b] = [await world.client('a'), await world.client('b')];
  const [d] = await oldTree(world, 1, 2000);
  assert.ok(d !== undefined);
  for (const name of (await a.names(d)).slice(0, 1000)) await a.fs.unlink(a.op, d, name as Name, false);
  const count = await counted(world, async () => {
    for (const name of await b.names(d)) await b.lookup(name, d);
  });
  // Ten parts of the listing; the owner gives its locks back in one message.
  atMost(count, 10 + 1);
});
