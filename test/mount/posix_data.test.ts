/** File contents: reading, writing, sizes, holes, mappings, as any local filesystem of Linux has them. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { FALLOC, O, SEEK } from '../fixtures/agent.js';
import { MIB } from '../fixtures/devices.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';

const shared = sharedCluster();
const zeros = (length: number): string => '\0'.repeat(length);

test('what was written is read, at every size around a page, a block and a request', async (t) => {
  const { a } = await shared.place(t);
  for (const length of [1, 4095, 4096, 4097, 8192, 131071, MIB - 1, MIB, MIB + 1, 3 * MIB + 5]) {
    const fd = await a.open(`f${length}`, O.CREAT | O.RDWR);
    await a.call('write_pattern', { fd, seed: length, offset: 0, length });
    const reader = await a.open(`f${length}`, O.RDONLY);
    for (const from of [fd, reader]) {
      assert.equal(await a.call('check_pattern', { fd: from, seed: length, offset: 0, length }), null);
    }
    assert.deepEqual([(await a.fstat(fd)).size, await a.pread(reader, length, 10)], [length, '']);
  }
});

test('every byte survives, in a file that grows past what is kept inline and shrinks again', async (t) => {
  const { a } = await shared.place(t);
  const all = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte)).join('');
  const fd = await a.open('f', O.CREAT | O.RDWR);
  for (const copies of [1, 10, 100, 1000, 2]) {
    await a.ftruncate(fd, 0);
    await a.pwrite(fd, 0, all.repeat(copies));
    await a.fsync(fd);
    assert.equal(await a.readFile('f'), all.repeat(copies));
  }
});

test('a position moves with read and write, and not with pread and pwrite', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.write(fd, 'abc');
  await a.pwrite(fd, 10, 'x');
  await a.write(fd, 'def');
  await a.lseek(fd, 1, SEEK.SET);
  assert.deepEqual(
    [await a.read(fd, 3), await a.pread(fd, 0, 2), await a.read(fd, 100), await a.lseek(fd, -1, SEEK.END)],
    ['bcd', 'ab', `ef${zeros(4)}x`, 10],
  );
});

test('unwritten parts of a file are zeros and take no space', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 64 * MIB, 'end');
  await a.fsync(fd);
  const stat = await a.fstat(fd);
  assert.deepEqual(
    [stat.size, stat.blocks * 512 < MIB, await a.pread(fd, 12345, 10), await a.pread(fd, 64 * MIB - 2, 9)],
    [64 * MIB + 3, true, zeros(10), '\0\0end'],
  );
});

test('files beyond 4 GiB have their offsets', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  const far = 5 * 1024 * MIB;
  await a.pwrite(fd, far, 'far');
  await a.pwrite(fd, far % 2 ** 32, 'near');
  await a.fsync(fd);
  assert.deepEqual(
    [await a.pread(fd, far, 3), await a.pread(fd, far % 2 ** 32, 4), (await a.stat('f')).size],
    ['far', 'near', far + 3],
  );
});

test('truncate cuts, extends with zeros, and shows no old bytes after both', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 0, 'x'.repeat(10_000));
  await a.ftruncate(fd, 5000);
  await a.ftruncate(fd, 12_000);
  assert.equal(await a.readFile('f'), 'x'.repeat(5000) + zeros(7000));
  await a.call('truncate', { path: 'f', length: 100 });
  await a.pwrite(fd, 200, 'y');
  assert.equal(await a.readFile('f'), `${'x'.repeat(100)}${zeros(100)}y`);
  await a.call('truncate', { path: 'f', length: 0 });
  assert.deepEqual([await a.readFile('f'), (await a.stat('f')).blocks], ['', 0]);
});

test('appends go to the end whoever else appended, and pread is not moved by it', async (t) => {
  const { a, more } = await shared.place(t);
  const other = more();
  const one = await a.open('f', O.CREAT | O.WRONLY | O.APPEND);
  const two = await other.open('f', O.RDWR | O.APPEND);
  for (let round = 0; round < 20; round++) {
    await a.write(one, `a${round};`);
    await other.write(two, `b${round};`);
  }
  const expected = Array.from({ length: 20 }, (_, round) => `a${round};b${round};`).join('');
  assert.deepEqual([await a.readFile('f'), await other.pread(two, 0, 6)], [expected, 'a0;b0;']);
});

test('a handle opened for reading does not write, and the other way round', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('f', 'x');
  await assert.rejects(a.write(await a.open('f', O.RDONLY), 'y'), { code: 'EBADF' });
  await assert.rejects(a.read(await a.open('f', O.WRONLY), 1), { code: 'EBADF' });
  await assert.rejects(a.open('', O.RDWR), { code: 'EISDIR' });
  await assert.rejects(a.read(await a.open('', O.RDONLY | O.DIRECTORY), 1), { code: 'EISDIR' });
});

test('a reader on the same mount sees each write at once, also in pages it has read before', async (t) => {
  const { a, more } = await shared.place(t);
  const tail = more();
  const writer = await a.open('log', O.CREAT | O.WRONLY | O.APPEND);
  const reader = await tail.open('log', O.RDONLY);
  let expected = '';
  for (let line = 0; line < 100; line++) {
    await a.write(writer, `line ${line}\n`);
    expected += await tail.read(reader, 100);
  }
  assert.equal(expected, Array.from({ length: 100 }, (_, line) => `line ${line}\n`).join(''));
});

test('writes and reads of one file in parallel on one mount leave no stale page behind', async (t) => {
  const { a, more } = await shared.place(t);
  const reader = more();
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 0, zeros(16384));
  const from = await reader.open('f', O.RDONLY);
  for (let round = 1; round <= 60; round++) {
    const text = String.fromCharCode(round).repeat(300);
    const reads = [0, 1, 2, 3].map((page) => reader.pread(from, page * 4096, 4096));
    const write = a.pwrite(fd, (round % 4) * 4096 + 100, text);
    await Promise.all([...reads, write]);
    assert.equal(await reader.pread(from, (round % 4) * 4096 + 100, 300), text, `round ${round}`);
  }
});

test('a shared mapping shows writes and its stores are read, a private one keeps its own', async (t) => {
  const { a, more } = await shared.place(t);
  const other = more();
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 0, 'a'.repeat(8192));
  const map = await a.call<number>('mmap', { fd, length: 8192 });
  const own = await a.call<number>('mmap', { fd, length: 8192, shared: false });
  const read = (which: number, offset: number, length: number): Promise<string> =>
    a.call('map_read', { map: which, offset, length });
  assert.equal(await read(map, 4090, 10), 'a'.repeat(10));
  await a.call('map_write', { map, offset: 4094, data: 'MAPPED' });
  await a.call('map_write', { map: own, offset: 0, data: 'PRIVATE' });
  await a.call('msync', { map });
  const reader = await other.open('f', O.RDONLY);
  await a.pwrite(fd, 100, 'written');
  assert.deepEqual(
    [
      await other.pread(reader, 4092, 10),
      await a.pread(fd, 4092, 10),
      await read(map, 98, 10),
      await read(own, 0, 8),
      await other.pread(reader, 0, 8),
    ],
    ['aaMAPPEDaa', 'aaMAPPEDaa', 'aawrittena', 'PRIVATEa', 'aaaaaaaa'],
  );
});

test('stores to a mapping that was never synced are there after its file was closed and opened again', async (t) => {
  const { a, more } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.ftruncate(fd, 3 * 4096);
  const map = await a.call<number>('mmap', { fd, length: 3 * 4096 });
  await a.call('map_write', { map, offset: 4095, data: 'xyz' });
  await a.close(fd);
  await a.call('munmap', { map });
  assert.equal(await more().readFile('f'), `${zeros(4095)}xyz${zeros(2 * 4096 - 2)}`);
});

test('an executable runs from the filesystem', async (t) => {
  const { a, path } = await shared.place(t);
  const { runOk } = await import('../fixtures/child.js');
  await a.writeFile('script', '#!/bin/sh\necho "ran $1"\n');
  await a.call('chmod', { path: 'script', mode: 0o755 });
  assert.equal(await runOk(path('script'), ['well']), 'ran well');
  await runOk('cp', ['/bin/echo', path('echo')]);
  assert.equal(await runOk(path('echo'), ['binary']), 'binary');
});

test('O_DIRECT reads and writes what buffered handles do, and the other way round', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('f', 'b'.repeat(16384));
  const direct = await a.open('f', O.RDWR | O.DIRECT);
  const buffered = await a.open('f', O.RDONLY);
  assert.equal(await a.pread(buffered, 4096, 3), 'bbb');
  await a.call('aligned_write', { fd: direct, offset: 4096, length: 4096, byte: 'd' });
  await a.pwrite(await a.open('f', O.WRONLY), 8192, 'w'.repeat(4096));
  const text = await a.call<string>('aligned_read', { fd: direct, offset: 4096, length: 8192 });
  assert.deepEqual([await a.pread(buffered, 4094, 5), text], ['bbddd', 'd'.repeat(4096) + 'w'.repeat(4096)]);
});

test('O_DSYNC writes like any other', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.WRONLY | O.DSYNC);
  await a.write(fd, 'synchronous');
  assert.equal(await a.readFile('f'), 'synchronous');
});

test('fallocate reserves, keeps the size when told, and refuses what it cannot do', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  const fallocate = (mode: number, offset: number, length: number): Promise<void> =>
    a.call('fallocate', { fd, mode, offset, length });
  await fallocate(0, 0, MIB);
  const grown = await a.fstat(fd);
  await fallocate(FALLOC.KEEP_SIZE, MIB, MIB);
  const kept = await a.fstat(fd);
  assert.deepEqual([grown.size, grown.blocks * 512 >= MIB, kept.size], [MIB, true, MIB]);
  assert.equal(await a.pread(fd, MIB - 4, 10), zeros(4));
  await assert.rejects(fallocate(FALLOC.PUNCH_HOLE, 0, 4096), { code: 'EOPNOTSUPP' });
});

test('punched and zeroed ranges read as zeros, to the byte, in files and their mappings', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 0, 'x'.repeat(5 * 4096));
  await a.fsync(fd);
  const reader = await a.open('f', O.RDONLY);
  const map = await a.call<number>('mmap', { fd, length: 5 * 4096 });
  await a.pread(reader, 0, 5 * 4096);
  const before = await a.fstat(fd);
  const punch = FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE;
  await a.call('fallocate', { fd, mode: punch, offset: 100, length: 3 * 4096 });
  await a.call('fallocate', { fd, mode: FALLOC.ZERO, offset: 4 * 4096, length: 2 * 4096 });
  await a.fsync(fd);
  const expected = 'x'.repeat(100) + zeros(3 * 4096) + 'x'.repeat(4096 - 100) + zeros(2 * 4096);
  const after = await a.fstat(fd);
  assert.deepEqual([after.size, after.blocks < before.blocks + 8], [6 * 4096, true]);
  assert.equal(await a.pread(reader, 0, 6 * 4096), expected);
  assert.equal(await a.call('map_read', { map, offset: 0, length: 5 * 4096 }), expected.slice(0, 5 * 4096));
});

test('SEEK_DATA and SEEK_HOLE find what was written, before and after it is on the server', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, MIB, 'x'.repeat(4096));
  await a.ftruncate(fd, 4 * MIB);
  for (let round = 0; round < 2; round++) {
    assert.deepEqual(
      [
        await a.lseek(fd, 0, SEEK.DATA),
        await a.lseek(fd, MIB, SEEK.HOLE),
        await a.lseek(fd, 0, SEEK.HOLE),
        await a.lseek(fd, MIB + 10, SEEK.DATA),
      ],
      [MIB, MIB + 4096, 0, MIB + 10],
    );
    await assert.rejects(a.lseek(fd, 2 * MIB, SEEK.DATA), { code: 'ENXIO' });
    await assert.rejects(a.lseek(fd, 4 * MIB, SEEK.HOLE), { code: 'ENXIO' });
    await a.fsync(fd);
  }
});

test('copy_file_range copies within and between files, ends at the end, and refuses overlap', async (t) => {
  const { a } = await shared.place(t);
  const from = await a.open('from', O.CREAT | O.RDWR);
  const to = await a.open('to', O.CREAT | O.RDWR);
  await a.call('write_pattern', { fd: from, seed: 7, offset: 0, length: 2 * MIB });
  const copy = (
    fd: number,
    offset: number,
    toFd: number,
    toOffset: number,
    length: number,
  ): Promise<number> => a.call('copy_range', { fd, offset, toFd, toOffset, length });
  let copied = 0;
  while (copied < 2 * MIB) copied += await copy(from, copied, to, copied, 2 * MIB - copied);
  assert.deepEqual(
    [
      await a.call('check_pattern', { fd: to, seed: 7, offset: 0, length: 2 * MIB }),
      await copy(from, 2 * MIB, to, 0, 10),
    ],
    [null, 0],
  );
  await a.pwrite(from, 0, 'HEAD');
  assert.equal(await copy(from, 0, from, MIB + 1, 4), 4);
  assert.equal(await a.pread(from, MIB + 1, 4), 'HEAD');
  await assert.rejects(copy(from, 0, from, 2, 10), { code: 'EINVAL' });
});

test('a write beyond what a file may be is EFBIG, a seek before its start EINVAL', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await assert.rejects(a.pwrite(fd, 2 ** 53 - 1, 'x'), { code: 'EFBIG' });
  await assert.rejects(a.lseek(fd, -1, SEEK.SET), { code: 'EINVAL' });
  await assert.rejects(a.ftruncate(fd, -1), { code: 'EINVAL' });
});

test('random writes, truncates, punches and reads agree with a model of the file', async (t) => {
  const { a, more } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  const mapper = more();
  const mapped = await mapper.open('f', O.RDWR);
  let model = Buffer.alloc(0);
  let seed = 20260117;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const grow = (size: number): void => {
    if (size > model.length) model = Buffer.concat([model, Buffer.alloc(size - model.length)]);
  };
  for (let round = 0; round < 250; round++) {
    const offset = random(200_000);
    const length = 1 + random(round % 3 === 0 ? 40_000 : 3000);
    const kind = random(7);
    if (kind <= 2) {
      const text = String.fromCharCode(33 + random(90)).repeat(length);
      grow(offset + length);
      model.write(text, offset, 'latin1');
      await a.pwrite(fd, offset, text);
    } else if (kind === 3) {
      await a.ftruncate(fd, offset);
      model =
        offset < model.length
          ? Buffer.from(model.subarray(0, offset))
          : Buffer.concat([model, Buffer.alloc(offset - model.length)]);
    } else if (kind === 4 && model.length > 0) {
      await a.call('fallocate', { fd, mode: FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, offset, length });
      model.fill(0, Math.min(offset, model.length), Math.min(offset + length, model.length));
    } else if (kind === 5 && model.length > offset + 16) {
      const map = await mapper.call<number>('mmap', { fd: mapped, length: model.length });
      await mapper.call('map_write', { map, offset, data: 'mapped' });
      await mapper.call('munmap', { map });
      model.write('mapped', offset, 'latin1');
    } else {
      const expected = model.subarray(Math.min(offset, model.length), offset + length).toString('latin1');
      assert.equal(await a.pread(fd, offset, length), expected, `round ${round}: read at ${offset}`);
    }
  }
  assert.equal((await a.readFile('f')) === model.toString('latin1'), true);
  assert.equal((await more(1).readFile('f')) === model.toString('latin1'), true, 'the other mount agrees');
});
