/**
 * Application locks that are lost in a recovery: whoever believed in one is told by the descriptor through which it was
 * taken, at every call but close; who has got it meanwhile keeps it, and nobody else notices anything.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../src/base/errno.js';
import { O_CREAT, type OpenFile, type Process } from './file_calls.js';
import { SystemError } from './system_error.js';
import { simulate, type World } from './world.js';

const O_RDWR = 2;

function evictions(world: World): string[] {
  return world.scheduler.trace.last(1000, /evicts/);
}

function lostLocks(world: World, index: number): number {
  return world
    .client(index)
    .client.status()
    .targets.reduce((sum, { lostAppLocks }) => sum + lostAppLocks, 0);
}

async function codeOf(run: Promise<unknown>): Promise<string> {
  try {
    await run;
    return 'no error';
  } catch (error) {
    if (error instanceof SystemError) return error.code;
    throw error;
  }
}

type How = 'exclusive' | 'unlock';
interface Kind {
  readonly name: string;
  readonly set: (process: Process, file: OpenFile, how: How, wait: boolean) => Promise<void>;
}

const KINDS: readonly Kind[] = [
  { name: 'an flock', set: (process, file, how, wait) => process.flock(file, how, wait) },
  { name: 'a range of fcntl', set: (process, file, how, wait) => process.fcntl(file, how, 10, 20, wait) },
];

/** Every call on it. */
async function answersOf(process: Process, file: OpenFile, { set }: Kind): Promise<string[]> {
  return [
    await codeOf(process.pread(file, 0, 4)),
    await codeOf(process.pwrite(file, 0, Buffer.from('x'))),
    await codeOf(process.fsync(file)),
    await codeOf(set(process, file, 'exclusive', false)),
    await codeOf(process.close(file)),
  ];
}
const TOLD = ['EIO', 'EIO', 'EIO', 'EIO', 'no error'];

interface Scene {
  readonly holder: Process;
  readonly held: OpenFile;
  readonly waiter: Process;
  readonly wanted: OpenFile;
  /** When the one who waits has it. */
  readonly granted: Promise<void>;
  isGranted(): boolean;
  /** Of the third client: nothing that happens here is its business. */
  unaffected(): Promise<void>;
}

/** Client 0 holds the lock, client 1 waits for it, client 2 holds one of its own. */
async function prepare(world: World, { set }: Kind): Promise<Scene> {
  const [holder, waiter, third] = world.clients.map((client) => client.process());
  assert.ok(holder !== undefined && waiter !== undefined && third !== undefined);
  const held = await holder.open('/f', O_CREAT | O_RDWR);
  await holder.pwrite(held, 0, Buffer.from('content'));
  await holder.fsync(held);
  const wanted = await waiter.open('/f', O_RDWR);
  const own = await third.open('/g', O_CREAT | O_RDWR);
  const other = await waiter.open('/g', O_RDWR);
  await set(holder, held, 'exclusive', true);
  await set(third, own, 'exclusive', true);
  let isGranted = false;
  const granted = set(waiter, wanted, 'exclusive', true).then(() => {
    isGranted = true;
  });
  await world.sleep(50);
  const unaffected = async (): Promise<void> => {
    assert.equal(await codeOf(set(waiter, other, 'exclusive', false)), 'EAGAIN');
    await third.pwrite(own, 0, Buffer.from('mine'));
    assert.equal((await third.pread(own, 0, 4)).toString(), 'mine');
    assert.equal(lostLocks(world, 2), 0);
  };
  return { holder, held, waiter, wanted, granted, isGranted: () => isGranted, unaffected };
}

/** The one who waited has it for good: nobody gets it beside him, and he gets on with his work. */
async function judgeNewHolder(world: World, { holder, waiter, wanted }: Scene, kind: Kind): Promise<void> {
  const again = await holder.open('/f', O_RDWR);
  assert.equal(await codeOf(kind.set(holder, again, 'exclusive', false)), 'EAGAIN');
  await waiter.pwrite(wanted, 0, Buffer.from('changed'));
  assert.equal((await waiter.pread(wanted, 0, 7)).toString(), 'changed');
  assert.equal(lostLocks(world, 1), 0);
  await kind.set(waiter, wanted, 'unlock', true);
  await kind.set(holder, again, 'exclusive', false);
  assert.equal((await holder.pread(again, 0, 7)).toString(), 'changed');
}

// The removal of an evicted client's record was durable only after its locks had gone to others: killed in between, the next
// server took both for known clients, and whoever replayed first had the lock.
for (const how of ['evicted', 'not waited for any longer'] as const) {
  test(`the locks of a client that is ${how} go to others when that is durable: a crash takes them from nobody`, async () => {
    for (const kind of KINDS) {
      for (let step = 0; step < 16; step++) {
        await takenOver(kind, how, step);
      }
    }
  });
}

async function takenOver(kind: Kind, how: string, step: number): Promise<void> {
  const settings = { recoverySoftMs: 3000, recoveryHardMs: 9000 };
  await simulate({ clients: 3, settings, seed: step }, async (world) => {
    const scene = await prepare(world, kind);
    const [server, away] = [world.server().machine, world.client(0).machine];
    world.network.block(server, away);
    world.network.block(away, server);
    const isEvicted = (): boolean => evictions(world).length > 0;
    if (how === 'evicted') {
      world.server().server?.evict('client0.1', 'the story wants it');
    } else {
      await world.restart();
      await world.until(isEvicted);
    }
    await world.sleep(step / 4);
    const hadIt = scene.isGranted();
    // It never hears of it.
    world.network.breakConnections(server, away);
    world.server().crash();
    world.network.heal();
    await world.sleep(50);
    // Whichever of the two comes first.
    world.network.clog(world.client(step % 2).machine, server, 20);
    await world.server().start();
    await world.until(() => world.server().server?.state === 'active');
    await world.sleep(1000);
    assert.deepEqual([lostLocks(world, 0), lostLocks(world, 1), lostLocks(world, 2)], [0, 0, 0]);
    if (hadIt || scene.isGranted()) {
      assert.deepEqual(await answersOf(scene.holder, scene.held, kind), TOLD);
      await judgeNewHolder(world, scene, kind);
    } else {
      // The eviction has never taken place.
      assert.equal((await scene.holder.pread(scene.held, 0, 7)).toString(), 'content');
      await kind.set(scene.holder, scene.held, 'unlock', true);
      await scene.granted;
    }
    await scene.unaffected();
  });
}

for (const kind of KINDS) {
  test(`${kind.name} of a client that comes back too late: its descriptor says EIO, who waited has it`, async () => {
    const settings = { recoverySoftMs: 3000, recoveryHardMs: 9000 };
    await simulate({ clients: 3, settings }, async (world) => {
      const scene = await prepare(world, kind);
      const [server, late] = [world.server().machine, world.client(0).machine];
      world.network.block(server, late);
      world.network.block(late, server);
      await world.restart();
      await world.sleep(2000);
      assert.equal(scene.isGranted(), false, 'its holder may still come');
      await scene.granted;
      assert.equal(evictions(world).length, 1);
      assert.match(evictions(world)[0] ?? '', /client0/);
      world.network.heal();
      // Until it is told, what its caches have is all it can know.
      await world.until(() => world.client(0).evictions.length > 0);
      assert.deepEqual(await answersOf(scene.holder, scene.held, kind), TOLD);
      await judgeNewHolder(world, scene, kind);
      await scene.unaffected();
      assert.equal(evictions(world).length, 1);
    });
  });

  test(`${kind.name} that somebody else has got before its holder replays it: the holder is told, the other keeps it`, async () => {
    await simulate({ clients: 3 }, async (world) => {
      const scene = await prepare(world, kind);
      const { holder, held } = scene;
      const unlocked = await holder.open('/f', O_RDWR);
      const [server, late] = [world.server().machine, world.client(0).machine];
      world.network.block(late, server);
      world.server().crash();
      await world.sleep(50);
      const next = await world.server().start();
      // What a server must not do: it grants what waits before all have replayed what they hold.
      next.target?.locks.holdFlockGrants(false);
      await world.sleep(1000);
      assert.equal(next.state, 'recovering');
      world.network.unblock(late, server);
      await scene.granted;
      await world.until(() => next.state === 'active');
      assert.deepEqual([lostLocks(world, 0), lostLocks(world, 1), lostLocks(world, 2)], [1, 0, 0]);
      assert.match(world.scheduler.trace.last(1000, /lock of process .* is lost/).join(), /client0/);
      // Other descriptors of the same file are none of its business.
      assert.equal((await holder.pread(unlocked, 0, 7)).toString(), 'content');
      assert.deepEqual(await answersOf(holder, held, kind), TOLD);
      await judgeNewHolder(world, scene, kind);
      await scene.unaffected();
      assert.deepEqual(evictions(world), []);
    });
  });

  test(`${kind.name} whose replay is refused: the holder is told, and nobody has it`, async () => {
    await simulate({ clients: 3 }, async (world) => {
      const scene = await prepare(world, kind);
      const uuid = world.client(0).client.status().uuid;
      world.server().crash();
      await world.sleep(50);
      const next = await world.server().start();
      const locks = next.target?.locks;
      assert.ok(locks !== undefined);
      const flock = locks.flock.bind(locks);
      let refused = 0;
      locks.flock = (client, fid, range, wait, sequence) => {
        if (client === uuid && next.state === 'recovering') {
          refused += 1;
          throw new FsError('ENOLCK', 'the story refuses it');
        }
        return flock(client, fid, range, wait, sequence);
      };
      await scene.granted;
      assert.equal(refused, 1);
      assert.deepEqual([lostLocks(world, 0), lostLocks(world, 1), lostLocks(world, 2)], [1, 0, 0]);
      assert.deepEqual(await answersOf(scene.holder, scene.held, kind), TOLD);
      await judgeNewHolder(world, scene, kind);
      await scene.unaffected();
      assert.deepEqual(evictions(world), []);
    });
  });
}
