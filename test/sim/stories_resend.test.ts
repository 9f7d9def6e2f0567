/**
 * One effect and the right result: the answer of each kind of operation is lost, then the request; and the answer together
 * with the server that gave it.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { O_EXCL } from '../../src/base/attr.js';
import { O_CREAT, type Process } from './file_calls.js';
import { simulate, type World } from './world.js';

const O_RDWR = 2;

interface Case {
  readonly name: string;
  readonly run: (process: Process) => Promise<unknown>;
  /** What another client sees after it. */
  readonly see: (process: Process) => Promise<unknown>;
  readonly expected: unknown;
}

const CASES: readonly Case[] = [
  {
    name: 'create',
    run: async (process) => process.close(await process.open('/new', O_CREAT | O_EXCL | O_RDWR)),
    see: async (process) => (await process.readdir('/')).includes('new'),
    expected: true,
  },
  {
    name: 'mkdir',
    run: (process) => process.mkdir('/new'),
    see: async (process) => (await process.stat('/')).nlink,
    expected: 4,
  },
  {
    name: 'open and close',
    run: async (process) => process.close(await process.open('/f', O_RDWR)),
    see: async (process) => (await process.stat('/f')).nlink,
    expected: 1,
  },
  {
    name: 'rename',
    run: (process) => process.rename('/f', '/g'),
    see: (process) => process.readdir('/'),
    expected: ['d', 'g'],
  },
  {
    name: 'link',
    run: (process) => process.link('/f', '/d/g'),
    see: async (process) => (await process.stat('/f')).nlink,
    expected: 2,
  },
  {
    name: 'unlink',
    run: (process) => process.unlink('/f'),
    see: (process) => process.readdir('/'),
    expected: ['d'],
  },
  {
    name: 'rmdir',
    run: (process) => process.rmdir('/d'),
    see: (process) => process.readdir('/'),
    expected: ['f'],
  },
  {
    name: 'symlink',
    run: (process) => process.symlink('target', '/d/s'),
    see: (process) => process.readlink('/d/s'),
    expected: 'target',
  },
  {
    name: 'setxattr',
    run: (process) => process.setxattr('/f', 'user.x', 'value'),
    see: (process) => process.getxattr('/f', 'user.x'),
    expected: 'value',
  },
  {
    name: 'chmod',
    run: (process) => process.chmod('/f', 0o400),
    see: async (process) => (await process.stat('/f')).mode & 0o7777,
    expected: 0o400,
  },
  {
    name: 'truncate',
    run: (process) => process.truncate('/f', 3),
    see: async (process) => (await process.stat('/f')).sizeBytes,
    expected: 3,
  },
  {
    name: 'write and fsync',
    run: async (process) => {
      const file = await process.open('/f', O_RDWR);
      await process.pwrite(file, 0, Buffer.from('more content'));
      await process.fsync(file);
      await process.close(file);
    },
    see: async (process) => (await process.stat('/f')).sizeBytes,
    expected: 12,
  },
];

const LOSSES: Readonly<Record<string, (world: World) => Promise<void>>> = {
  'the answer of': async (world) => {
    const [server, client] = [world.server().machine, world.client(0).machine];
    world.network.block(server, client);
    await world.sleep(40);
    world.network.breakConnections(server, client);
    world.network.heal();
  },
  'the request of': async (world) => {
    const [server, client] = [world.server().machine, world.client(0).machine];
    world.network.block(client, server);
    await world.sleep(40);
    world.network.breakConnections(server, client);
    world.network.heal();
  },
  'the server with the answer of': async (world) => {
    world.network.block(world.server().machine, world.client(0).machine);
    await world.sleep(40);
    world.server().crash();
    world.network.heal();
    await world.sleep(50);
    await world.server().start();
  },
  'the server, which committed nothing, with the answer of': async (world) => {
    world.server().hold();
    world.network.block(world.server().machine, world.client(0).machine);
    await world.sleep(40);
    world.server().crash();
    world.network.heal();
    await world.sleep(50);
    await world.server().start();
  },
};

for (const [what, lose] of Object.entries(LOSSES)) {
  for (const { name, run, see, expected } of CASES) {
    test(`${what} ${name} is lost: one effect, the right result`, async () => {
      await simulate({ clients: 2, limitMs: 60_000 }, async (world) => {
        const process = world.client(0).process();
        const file = await process.open('/f', O_CREAT | O_RDWR);
        await process.pwrite(file, 0, Buffer.from('content'));
        await process.close(file);
        await process.mkdir('/d');
        const losing = lose(world);
        await run(process);
        await losing;
        assert.deepEqual(await see(world.client(1).process()), expected);
        assert.deepEqual(await see(process), expected);
        assert.deepEqual(world.scheduler.trace.last(10, /evicts/), []);
      });
    });
  }
}
