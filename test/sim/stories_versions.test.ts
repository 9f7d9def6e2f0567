/**
 * Controlled shutdowns and upgrades with clients and servers that can do less, or more, than this build. What they have in
 * common is enough for an upgrade that nobody notices; what they lack shows after a crash, and then in them alone.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_CREAT, type OpenFile, type Process } from './file_calls.js';
import { SystemError } from './system_error.js';
import { type Build, LATER_BUILD, RELEASE_0_1, THIS_BUILD } from './versions.js';
import { simulate, type World } from './world.js';

const O_RDWR = 2;

function evictions(world: World): string[] {
  return world.scheduler.trace.last(2000, /evicts/);
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

/** Client 0 is of another build, client 1 of this one. */
function builds(other: Build, server: Build = THIS_BUILD): (world: World) => void {
  return (world) => {
    world.client(0).build = other;
    world.client(0).version = '0.9.0';
    world.server().build = server;
  };
}

/** What the server has agreed on with each of them. */
function agreed(world: World): (number | undefined)[] {
  const { target } = world.server().server ?? {};
  return world.clients.map(({ client }) => {
    const { uuid } = client.status();
    return [...(target?.exports ?? [])].find((one) => one.uuid === uuid)?.features;
  });
}

interface Open {
  readonly process: Process;
  readonly unlinked: OpenFile;
  readonly locked: OpenFile;
  readonly dirty: OpenFile;
}

/** Everything that an upgrade must take along. */
async function occupy(world: World, index: number): Promise<Open> {
  const process = world.client(index).process();
  await process.mkdir(`/c${index}`);
  const unlinked = await process.open(`/c${index}/unlinked`, O_CREAT | O_RDWR);
  await process.pwrite(unlinked, 0, Buffer.alloc(300_000, 1 + index));
  await process.unlink(`/c${index}/unlinked`);
  const locked = await process.open(`/c${index}/locked`, O_CREAT | O_RDWR);
  await process.flock(locked, 'exclusive');
  await process.fcntl(locked, 'exclusive', 5, 10);
  const dirty = await process.open(`/c${index}/dirty`, O_CREAT | O_RDWR);
  await process.pwrite(dirty, 0, Buffer.alloc(2 << 20, 3));
  return { process, unlinked, locked, dirty };
}

/** It is all there, and the other one sees it so. */
async function judgeOpen(world: World, index: number, { process, unlinked, dirty }: Open): Promise<void> {
  assert.equal((await process.pread(unlinked, 299_999, 10)).toString('hex'), `0${1 + index}`);
  await process.pwrite(unlinked, 0, Buffer.alloc(300_000, 1 + index));
  await process.fsync(dirty);
  const other = world.client(1 - index).process();
  const seen = await other.open(`/c${index}/dirty`, 0);
  assert.equal((await other.pread(seen, (2 << 20) - 1, 10)).toString('hex'), '03');
  await other.close(seen);
  const lock = await other.open(`/c${index}/locked`, O_RDWR);
  assert.equal(await codeOf(other.flock(lock, 'exclusive', false)), 'EAGAIN');
  assert.equal(await codeOf(other.fcntl(lock, 'exclusive', 9, 10, false)), 'EAGAIN');
  assert.equal(await codeOf(other.fcntl(lock, 'exclusive', 10, 11, false)), 'no error');
  await other.close(lock);
}

const ALL = THIS_BUILD.features;
const OLD = RELEASE_0_1.features;

for (const { name, client, server, next, features } of [
  {
    name: 'older, server new',
    client: RELEASE_0_1,
    server: THIS_BUILD,
    next: THIS_BUILD,
    features: [OLD, ALL],
  },
  {
    name: 'later, server new',
    client: LATER_BUILD,
    server: THIS_BUILD,
    next: THIS_BUILD,
    features: [ALL, ALL],
  },
  {
    name: 'new, server older',
    client: THIS_BUILD,
    server: RELEASE_0_1,
    next: THIS_BUILD,
    features: [ALL, ALL],
  },
  {
    name: 'older, server older',
    client: RELEASE_0_1,
    server: RELEASE_0_1,
    next: THIS_BUILD,
    features: [OLD, ALL],
  },
  {
    name: 'older, downgrade',
    client: RELEASE_0_1,
    server: THIS_BUILD,
    next: RELEASE_0_1,
    features: [OLD, OLD],
  },
  {
    name: 'later, downgrade',
    client: LATER_BUILD,
    server: THIS_BUILD,
    next: RELEASE_0_1,
    features: [OLD, OLD],
  },
] as const) {
  test(`client ${name}: it drains, and an upgrade disrupts nobody`, async () => {
    await simulate(
      { clients: 2 },
      async (world) => {
        const open = [await occupy(world, 0), await occupy(world, 1)] as const;
        const { server: first } = world.server();
        const shutdown = first?.shutdown();
        await world.sleep(1);
        const parked = open.map(({ process }, index) => process.mkdir(`/c${index}/parked`));
        assert.equal(await shutdown, 'clean');
        await world.until(() => world.server().program === undefined);
        await world.server().start({ version: '2.0.0', build: next });
        await Promise.all(parked);
        await world.until(() => world.server().server?.state === 'active');
        assert.deepEqual(agreed(world), features);
        for (const [index, one] of open.entries()) await judgeOpen(world, index, one);
        await world.upgrade('1.0.0', { build: server });
        for (const [index, one] of open.entries()) await judgeOpen(world, index, one);
        for (const { process } of open) await process.exit();
        assert.deepEqual(evictions(world), []);
      },
      builds(client, server),
    );
  });
}

test('an older client that does not drain in time is evicted, alone, and usable after it', async () => {
  await simulate(
    { clients: 2 },
    async (world) => {
      const [older, own] = [await occupy(world, 0), await occupy(world, 1)];
      const { program } = world.client(0);
      assert.ok(program !== undefined);
      program.stoppedUntilMs = world.scheduler.nowMs + 20_000;
      assert.equal(await world.server().server?.shutdown({ drainTimeoutMs: 1000 }), 'clean');
      await world.until(() => world.server().program === undefined);
      await world.server().start({ version: '2.0.0' });
      assert.equal((await own.process.pread(own.unlinked, 0, 1)).toString('hex'), '02');
      await own.process.fsync(own.dirty);
      await world.until(() => world.client(0).evictions.length > 0);
      assert.equal(await codeOf(older.process.pread(older.unlinked, 0, 1)), 'EIO');
      assert.equal(await codeOf(older.process.fsync(older.dirty)), 'EIO');
      await older.process.exit();
      await older.process.mkdir('/usable');
      assert.deepEqual(
        evictions(world).map((line) => /client\d/.exec(line)?.[0]),
        ['client0'],
      );
    },
    builds(RELEASE_0_1),
  );
});

test('a shutdown that is taken back lets an older client go on that has drained already', async () => {
  await simulate(
    { clients: 2 },
    async (world) => {
      const open = [await occupy(world, 0), await occupy(world, 1)] as const;
      await open[0].process.fsync(open[0].dirty);
      world.network.clog(world.client(1).machine, world.server().machine, 100);
      const { server } = world.server();
      const result = server?.shutdown();
      await world.until(() => server?.status().clients.some(({ state }) => state === 'drained') === true);
      const parked = open[0].process.mkdir('/parked');
      await world.sleep(10);
      assert.equal(server?.cancelShutdown(), true);
      assert.equal(await result, 'cancelled');
      world.network.heal();
      await parked;
      for (const [index, one] of open.entries()) await judgeOpen(world, index, one);
      assert.deepEqual(evictions(world), []);
    },
    builds(RELEASE_0_1),
  );
});

for (const { name, client, server, evicted } of [
  { name: 'an older client', client: RELEASE_0_1, server: THIS_BUILD, evicted: ['client0'] },
  { name: 'an older server', client: THIS_BUILD, server: RELEASE_0_1, evicted: ['client0', 'client1'] },
  { name: 'a later client', client: LATER_BUILD, server: THIS_BUILD, evicted: [] },
] as const) {
  test(`${name}, and the server is killed: evicted is who cannot replay, and nobody else`, async () => {
    await simulate(
      { clients: 2 },
      async (world) => {
        const open = [await occupy(world, 0), await occupy(world, 1)] as const;
        for (const { process, dirty } of open) await process.fsync(dirty);
        await world.sleep(500);
        world.server().hold();
        await Promise.all(open.map(({ process }, index) => process.mkdir(`/c${index}/made`)));
        await world.restart();
        await world.until(() => world.server().server?.state === 'active');
        await world.sleep(1000);
        assert.deepEqual([...evictions(world)].map((line) => /client\d/.exec(line)?.[0]).sort(), evicted);
        for (const [index, { process, unlinked }] of open.entries()) {
          const isEvicted = evicted.some((one) => one === `client${index}`);
          assert.equal(await codeOf(process.pread(unlinked, 0, 1)), isEvicted ? 'EIO' : 'no error');
          assert.deepEqual(
            await process.readdir(`/c${index}`),
            isEvicted ? ['dirty', 'locked'] : ['dirty', 'locked', 'made'],
          );
          await process.exit();
        }
      },
      builds(client, server),
    );
  });
}

test('a client that speaks no protocol of this server is told so, and harms nobody', async () => {
  const future: Build = { ...LATER_BUILD, protocolMin: LATER_BUILD.protocolMax };
  await simulate({ clients: 2 }, async (world) => {
    const [stranger, own] = world.clients;
    assert.ok(stranger !== undefined && own !== undefined);
    await stranger.unmount();
    stranger.build = future;
    await assert.rejects(stranger.mount(), /protocol 2.*server 1\.0\.0 speaks 1.*upgrade the server/);
    await world.upgrade('2.0.0');
    await own.process().mkdir('/d');
    assert.deepEqual(evictions(world), []);
  });
});
