/** A full device: ENOSPC where space is needed, deletes always work, and freed space is usable. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { type Agent, FALLOC, O, SyscallError } from '../fixtures/agent.js';
import { startCluster } from '../fixtures/cluster.js';
import { MIB } from '../fixtures/devices.js';
import { until } from '../fixtures/until.js';

const codeOf = (thrown: unknown): string => (thrown instanceof SyscallError ? thrown.code : String(thrown));

/** Small files in `d` until there is no room. */
async function fillWithFiles(agent: Agent, nameOf: (index: number) => string): Promise<void> {
  let made = 0;
  let failure = '';
  const content = 'x'.repeat(3000);
  while (failure === '' && made < 20_000) {
    const batch = Array.from({ length: 20 }, (_, at) => agent.writeFile(`d/${nameOf(made + at)}`, content));
    for (const result of await Promise.allSettled(batch)) {
      if (result.status === 'fulfilled') made += 1;
      else failure = codeOf(result.reason);
    }
  }
  assert.equal(failure, 'ENOSPC', `${made} files were made`);
}

/** A file that is given space until there is none. */
async function fillWithSpace(agent: Agent): Promise<void> {
  const filler = await agent.open('filler', O.CREAT | O.WRONLY | O.DSYNC);
  let filled = 0;
  for (const length of [MIB, 64 << 10, 4096]) {
    let failure = '';
    while (failure === '') {
      await agent.call('fallocate', { fd: filler, mode: 0, offset: filled, length }).then(
        () => {
          filled += length;
        },
        (thrown: unknown) => {
          failure = codeOf(thrown);
        },
      );
    }
    assert.equal(failure, 'ENOSPC');
  }
  await assert.rejects(agent.pwrite(filler, filled, 'more'), { code: 'ENOSPC' });
}

test('a full data device gives ENOSPC to write or fsync, and nothing that was acknowledged durable is lost', async (t) => {
  const cluster = await startCluster(t, { metaBytes: 64 * MIB, dataBytes: 64 * MIB });
  const agent = cluster.agent();
  const kept = await agent.open('kept', O.CREAT | O.RDWR);
  await agent.call('write_pattern', { fd: kept, seed: 3, offset: 0, length: 4 * MIB });
  await agent.fsync(kept);
  const fd = await agent.open('full', O.CREAT | O.RDWR);
  let failure = '';
  for (let at = 0; failure === '' && at < 128; at++) {
    try {
      await agent.call('write_pattern', { fd, seed: 4, offset: at * MIB, length: MIB });
      if (at % 8 === 7) await agent.fsync(fd);
    } catch (thrown) {
      failure = codeOf(thrown);
    }
  }
  assert.equal(failure, 'ENOSPC');
  assert.equal(await agent.call('check_pattern', { fd: kept, seed: 3, offset: 0, length: 4 * MIB }), null);
  await agent.close(fd).catch(() => undefined);
  await agent.unlink('full');
  await until('the space is free', async () => {
    const found = await agent.call<{ blocksFree: number; blocks: number }>('statvfs');
    return found.blocksFree > found.blocks / 2;
  });
  const again = await agent.open('again', O.CREAT | O.RDWR);
  await agent.call('write_pattern', { fd: again, seed: 5, offset: 0, length: 16 * MIB });
  await agent.fsync(again);
  assert.equal(await agent.call('check_pattern', { fd: again, seed: 5, offset: 0, length: 16 * MIB }), null);
});

test('reserving and copying more than there is fails with ENOSPC, truncating makes room', async (t) => {
  const cluster = await startCluster(t, { metaBytes: 64 * MIB, dataBytes: 64 * MIB });
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await assert.rejects(agent.call('fallocate', { fd, mode: 0, offset: 0, length: 1024 * MIB }), {
    code: 'ENOSPC',
  });
  await agent.call('fallocate', { fd, mode: FALLOC.KEEP_SIZE, offset: 0, length: 32 * MIB });
  await agent.ftruncate(fd, 0);
  const other = await agent.open('g', O.CREAT | O.RDWR);
  await agent.call('write_pattern', { fd: other, seed: 1, offset: 0, length: 40 * MIB });
  await agent.fsync(other);
});

test('a full meta device gives ENOSPC to create, and unlink works and makes room', async (t) => {
  const cluster = await startCluster(t, { metaBytes: 16 * MIB, dataBytes: 64 * MIB });
  const agent = cluster.agent();
  await agent.mkdir('d');
  await fillWithFiles(agent, String);
  const names = await agent.list('d');
  for (const name of names) await agent.unlink(`d/${name}`);
  assert.deepEqual(await agent.list('d'), []);
  await agent.writeFile('after', 'works');
  await agent.fsync(await agent.open('after', O.RDONLY));
  assert.equal(await agent.readFile('after'), 'works');
});

test('a full filesystem shuts down cleanly and is served by another version', async (t) => {
  const cluster = await startCluster(t, { metaBytes: 64 * MIB, dataBytes: 64 * MIB });
  const agent = cluster.agent();
  const fd = await agent.open('f', O.CREAT | O.RDWR);
  await agent.call('fallocate', { fd, mode: 0, offset: 0, length: 40 * MIB });
  await agent.call('write_pattern', { fd, seed: 9, offset: 0, length: 40 * MIB });
  await agent
    .call('write_pattern', { fd, seed: 9, offset: 40 * MIB, length: 30 * MIB })
    .catch(() => undefined);
  await cluster.upgrade();
  assert.equal(await agent.call('check_pattern', { fd, seed: 9, offset: 0, length: 40 * MIB }), null);
});

test('a target with a full meta device is served by another version, mounted, emptied and used', async (t) => {
  const cluster = await startCluster(t, { metaBytes: 16 * MIB, dataBytes: 64 * MIB });
  const nameOf = (index: number): string => String(index).padEnd(150, 'n');
  await cluster.agent().mkdir('d');
  await fillWithFiles(cluster.agent(), nameOf);
  await cluster.upgrade();
  await cluster.addMount();
  const agent = cluster.agent(1);
  const names = await agent.list('d');
  for (let at = 0; at < names.length; at += 20) {
    await Promise.all(names.slice(at, at + 20).map((name) => agent.unlink(`d/${name}`)));
  }
  assert.deepEqual(await agent.list('d'), []);
  await agent.writeFile('after', 'works');
  await agent.fsync(await agent.open('after', O.RDONLY));
  assert.equal(await agent.readFile('after'), 'works');
});

test('a full device takes what is allocated: writes, stores into a mapping, O_DSYNC, small pieces, fallocate', async (t) => {
  const cluster = await startCluster(t, { metaBytes: 64 * MIB, dataBytes: 32 * MIB });
  const agent = cluster.agent();
  const wal = await agent.open('wal', O.CREAT | O.RDWR);
  await agent.call('fallocate', { fd: wal, mode: 0, offset: 0, length: 4 * MIB });
  const old = await agent.open('old', O.CREAT | O.RDWR);
  await agent.call('write_pattern', { fd: old, seed: 1, offset: 0, length: 4 * MIB });
  await agent.fsync(old);
  await fillWithSpace(agent);
  const pattern = (fd: number, seed: number) => ({ fd, seed, offset: 0, length: 4 * MIB });
  for (const [round, fd] of [wal, old, wal, old].entries()) {
    await agent.call('write_pattern', pattern(fd, 10 + round));
    await agent.fsync(fd);
  }
  const synced = await agent.open('wal', O.RDWR | O.DSYNC);
  for (let at = 0; at < 64; at++) await agent.pwrite(synced, at * 8192, 'o');
  const map = await agent.call<number>('mmap', { fd: old, length: 4 * MIB });
  for (let at = 0; at < 512; at++) await agent.call('map_write', { map, offset: at * 8192, data: 'm' });
  await agent.call('msync', { map });
  await agent.call('munmap', { map });
  await agent.close(old);
  for (const mode of [0, FALLOC.KEEP_SIZE])
    await agent.call('fallocate', { fd: wal, mode, offset: 0, length: 4 * MIB });
  await cluster.upgrade();
  const again = await agent.open('old', O.RDONLY);
  for (let at = 0; at < 64; at++)
    assert.equal(await agent.pread(wal, at * 8192, 1), 'o', `wal at ${at * 8192}`);
  for (let at = 0; at < 512; at++)
    assert.equal(await agent.pread(again, at * 8192, 1), 'm', `old at ${at * 8192}`);
  await agent.call('fallocate', { fd: wal, mode: FALLOC.ZERO, offset: 0, length: 4 * MIB });
  await agent.call('write_pattern', pattern(wal, 5));
  await agent.fsync(wal);
  assert.equal(await agent.call('check_pattern', pattern(wal, 5)), null);
});

test('a store into a mapping that finds no room is told by msync, fsync and close, once each', async (t) => {
  const cluster = await startCluster(t, { metaBytes: 64 * MIB, dataBytes: 32 * MIB });
  const agent = cluster.agent();
  const told: string[] = [];
  const tells = (what: string, call: Promise<unknown>): Promise<void> =>
    call.then(
      () => void told.push(`${what} 0`),
      (thrown: unknown) => void told.push(`${what} ${codeOf(thrown)}`),
    );
  const length = MIB;
  const file = async (name: string): Promise<{ fd: number; map: number }> => {
    const fd = await agent.open(name, O.CREAT | O.RDWR);
    await agent.ftruncate(fd, length);
    return { fd, map: await agent.call<number>('mmap', { fd, length }) };
  };
  const store = async (map: number): Promise<void> => {
    for (let at = 0; at < 4; at++) await agent.call('map_write', { map, offset: at * 8192, data: 'm' });
  };
  const files = [];
  for (const name of ['msync', 'fsync', 'close']) files.push(await file(name));
  const [synced, fsynced, closed] = files as [Held, Held, Held];
  await fillWithSpace(agent);

  await store(synced.map);
  await tells('msync', agent.call('msync', { map: synced.map }));
  await tells('msync', agent.call('msync', { map: synced.map }));
  await tells('close', agent.close(synced.fd));

  const reader = await agent.open('fsync', O.RDONLY);
  await store(fsynced.map);
  await tells('fsync', agent.fsync(fsynced.fd));
  await tells('fsync', agent.fsync(fsynced.fd));
  await tells('fsync of a reader', agent.fsync(reader));
  await tells('close of a reader', agent.close(reader));
  await tells('close', agent.close(fsynced.fd));

  await store(closed.map);
  await tells('close', agent.close(closed.fd));

  assert.deepEqual(told, [
    ...['msync ENOSPC', 'msync 0', 'close 0'],
    ...['fsync ENOSPC', 'fsync 0', 'fsync of a reader ENOSPC', 'close of a reader 0', 'close 0'],
    'close ENOSPC',
  ]);
});
interface Held {
  readonly fd: number;
  readonly map: number;
}
