/** Two mounts of one server: what one side changes is at once true on the other, whatever the other had cached. */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { type Agent, FALLOC, O, RENAME, SEEK } from '../fixtures/agent.js';
import { runOk } from '../fixtures/child.js';
import { MIB } from '../fixtures/devices.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';

const shared = sharedCluster({ mounts: 2 });

/** Looks at the name and everything behind it, so that every cache of that side is warm. */
async function warm(agent: Agent, path: string): Promise<void> {
  for (let round = 0; round < 2; round++) {
    await agent.lstat(path).catch(() => undefined);
    await agent.list('').catch(() => undefined);
    await agent.readFile(path).catch(() => undefined);
  }
}

test('a name that was missed appears when the other side creates it', async (t) => {
  const { a, b } = await shared.place(t);
  const create: Record<string, () => Promise<unknown>> = {
    file: () => a.writeFile('file', 'x'),
    directory: () => a.mkdir('directory'),
    symlink: () => a.symlink('x', 'symlink'),
    fifo: () => a.call('mknod', { path: 'fifo', mode: 0o010600 }),
    link: () => a.link('file', 'link'),
    moved: () => a.rename('link', 'moved'),
    tmpfile: async () => {
      const fd = await a.open('', O.TMPFILE | O.RDWR);
      await a.call('link_fd', { fd, to: 'tmpfile' });
    },
  };
  for (const [name, make] of Object.entries(create)) {
    await warm(b, name);
    await assert.rejects(b.lstat(name), { code: 'ENOENT' });
    await make();
    assert.ok((await b.lstat(name)).ino > 0, name);
    assert.ok((await b.list()).includes(name), `${name} is listed`);
  }
});

test('a name that was seen is gone when the other side unlinks, removes or moves it', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('file', 'x');
  await a.mkdir('directory');
  await a.writeFile('moved', 'x');
  await a.mkdir('moved directory');
  await a.writeFile('moved directory/inside', 'x');
  for (const name of ['file', 'directory', 'moved', 'moved directory/inside']) await warm(b, name);
  await a.unlink('file');
  await a.rmdir('directory');
  await a.rename('moved', 'elsewhere');
  await a.rename('moved directory', 'elsewhere directory');
  for (const name of ['file', 'directory', 'moved', 'moved directory', 'moved directory/inside']) {
    await assert.rejects(b.stat(name), { code: 'ENOENT' }, name);
  }
  assert.deepEqual(
    [await b.list(), await b.readFile('elsewhere directory/inside')],
    [['elsewhere', 'elsewhere directory'], 'x'],
  );
});

test('a file replaced by rename stays readable through its open fd, and its name leads to the new one', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('old', 'one');
  const fd = await a.open('old', O.RDONLY);
  await warm(a, 'old');
  await b.writeFile('new', 'two');
  await b.rename('new', 'old');
  assert.deepEqual(
    [await a.read(fd, 10), await a.readFile('old'), (await a.fstat(fd)).nlink, await a.list()],
    ['one', 'two', 0, ['old']],
  );
});

test('an exchange of two names is seen from the other side', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('one', '1');
  await a.writeFile('two', '2');
  await warm(b, 'one');
  await warm(b, 'two');
  await a.rename('one', 'two', RENAME.EXCHANGE);
  assert.deepEqual([await b.readFile('one'), await b.readFile('two')], ['2', '1']);
});

test('a file unlinked by the other side goes on working through its handles on this one', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('f', 'text');
  const fd = await a.open('f', O.RDWR);
  await b.unlink('f');
  await a.pwrite(fd, 4, ' goes on');
  assert.deepEqual([await a.pread(fd, 0, 20), (await a.fstat(fd)).nlink], ['text goes on', 0]);
});

test('attributes changed by one side are those that the other sees', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('f', 'x');
  await a.mkdir('d');
  const fd = await b.open('f', O.RDONLY);
  await b.call('chdir', { path: 'd' });
  const changes: Record<string, () => Promise<unknown>> = {
    mode: () => a.call('chmod', { path: 'f', mode: 0o601 }),
    uid: () => a.call('chown', { path: 'f', uid: 77, gid: -1 }),
    gid: () => a.call('chown', { path: 'f', uid: -1, gid: 78 }),
    mtimeNs: () => a.call('utimens', { path: 'f', atimeNs: '0', mtimeNs: '1234567890' }),
    nlink: () => a.link('f', 'g'),
    size: () => a.call('truncate', { path: 'f', length: 1000 }),
  };
  for (const [what, change] of Object.entries(changes)) {
    const key = what as 'mode';
    const before = [(await b.stat('f'))[key], (await b.fstat(fd))[key]];
    await change();
    const truth = (await a.stat('f'))[key];
    assert.deepEqual([(await b.stat('f'))[key], (await b.fstat(fd))[key]], [truth, truth], what);
    assert.notDeepEqual(before, [truth, truth], what);
  }
  const before = (await b.stat('d')).mode;
  await a.call('chmod', { path: 'd', mode: 0o700 });
  assert.notEqual((await b.stat('d')).mode, before);
});

test('directory times and link counts follow the other side', async (t) => {
  const { a, b } = await shared.place(t);
  const before = await b.stat('');
  await a.mkdir('d');
  const after = await b.stat('');
  assert.deepEqual([after.nlink, BigInt(after.mtimeNs) > BigInt(before.mtimeNs)], [before.nlink + 1, true]);
});

test('extended attributes set and removed by one side are those that the other sees', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('f', '');
  const get = (): Promise<string> => b.call('getxattr', { path: 'f', name: 'user.k' });
  await assert.rejects(get(), { code: 'ENODATA' });
  await a.call('setxattr', { path: 'f', name: 'user.k', value: 'one' });
  assert.equal(await get(), 'one');
  await a.call('setxattr', { path: 'f', name: 'user.k', value: 'two' });
  assert.deepEqual([await get(), await b.call('listxattr', { path: 'f' })], ['two', ['user.k']]);
  await a.call('removexattr', { path: 'f', name: 'user.k' });
  await assert.rejects(get(), { code: 'ENODATA' });
});

test('permissions taken away on one side are refused on the other', async (t) => {
  const { a, b } = await shared.place(t);
  await a.call('chmod', { path: '', mode: 0o755 });
  await a.writeFile('f', 'x');
  await a.call('chmod', { path: 'f', mode: 0o644 });
  await b.call('setids', { uid: 1000, gid: 1000 });
  assert.equal(await b.readFile('f'), 'x');
  await a.call('chmod', { path: 'f', mode: 0o600 });
  await assert.rejects(b.readFile('f'), { code: 'EACCES' });
  await a.call('chmod', { path: '', mode: 0o700 });
  await assert.rejects(b.stat('f'), { code: 'EACCES' });
});

test('each write is read by the other side at once, in turns, through every kind of handle', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('f', '-'.repeat(10_000));
  const writers = [
    await a.open('f', O.WRONLY),
    await a.open('f', O.RDWR),
    await a.open('f', O.RDWR | O.DIRECT),
  ];
  const readers = [await b.open('f', O.RDONLY), await b.open('f', O.RDWR)];
  for (let round = 0; round < 12; round++) {
    const writer = writers[round % 3] ?? 0;
    const text = `round ${round}!`;
    const offset = (round % 2) * 4090;
    if (round % 3 === 2)
      await a.call('aligned_write', { fd: writer, offset: 0, length: 4096, byte: `${round % 10}` });
    else await a.pwrite(writer, offset, text);
    for (const reader of readers) {
      const expected = round % 3 === 2 ? `${round % 10}`.repeat(8) : text;
      assert.equal(
        await b.pread(reader, round % 3 === 2 ? 0 : offset, expected.length),
        expected,
        `round ${round}`,
      );
    }
  }
});

test('two sides that append in turns lose nothing and overwrite nothing', async (t) => {
  const { a, b } = await shared.place(t);
  const one = await a.open('log', O.CREAT | O.WRONLY | O.APPEND);
  const two = await b.open('log', O.RDWR | O.APPEND);
  let expected = '';
  for (let round = 0; round < 30; round++) {
    const text = `record ${round} ${'x'.repeat(round * 37)}\n`;
    await (round % 2 === 0 ? a.write(one, text) : b.write(two, text));
    expected += text;
  }
  assert.deepEqual([await a.readFile('log'), await b.readFile('log')], [expected, expected]);
});

test('two sides that append at the same time lose nothing and tear no record', async (t) => {
  const { a, b } = await shared.place(t);
  const handles = [
    await a.open('log', O.CREAT | O.WRONLY | O.APPEND),
    await b.open('log', O.WRONLY | O.APPEND),
  ];
  const records = (name: string): string[] =>
    Array.from({ length: 100 }, (_, at) => `${name} ${at} ${'.'.repeat(50)}\n`);
  await Promise.all([
    ...records('a').map((record) => a.write(handles[0] ?? 0, record)),
    ...records('b').map((record) => b.write(handles[1] ?? 0, record)),
  ]);
  const lines = (await a.readFile('log')).split('\n').slice(0, -1);
  assert.deepEqual(
    [...lines].sort(),
    [...records('a'), ...records('b')].map((record) => record.trimEnd()).sort(),
  );
  for (const name of ['a ', 'b ']) {
    const mine = lines.filter((line) => line.startsWith(name)).map((line) => Number(line.split(' ')[1]));
    assert.deepEqual(
      mine,
      Array.from({ length: 100 }, (_, at) => at),
      'in order',
    );
  }
});

test('two sides that write neighbouring bytes of one page keep both', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('f', '.'.repeat(4096));
  const [one, two] = [await a.open('f', O.RDWR), await b.open('f', O.RDWR)];
  await Promise.all(
    Array.from({ length: 50 }, (_, at) => [
      a.pwrite(one, at * 2, 'a'),
      b.pwrite(two, at * 2 + 1, 'b'),
    ]).flat(),
  );
  const expected = 'ab'.repeat(50).padEnd(4096, '.');
  assert.deepEqual([await a.readFile('f'), await b.readFile('f')], [expected, expected]);
});

test('size and times of a file that the other side is writing are exact', async (t) => {
  const { a, b } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.WRONLY);
  const reader = await b.open('f', O.RDONLY);
  for (let round = 1; round <= 10; round++) {
    await a.pwrite(fd, round * 1000, 'x');
    const [path, handle, own] = [await b.stat('f'), await b.fstat(reader), await a.fstat(fd)];
    assert.deepEqual(
      [path.size, handle.size, path.mtimeNs, await b.lseek(reader, 0, SEEK.END)],
      [round * 1000 + 1, round * 1000 + 1, own.mtimeNs, round * 1000 + 1],
    );
  }
});

test('both sides count the same blocks of a file, before and after it is written back, as ext4 does', async (t) => {
  const { a, b } = await shared.place(t);
  const sizes = [1, 511, 513, 3000, 4032, 4033, 4097, 20_000];
  for (const size of sizes) {
    const fd = await a.open(`f${size}`, O.CREAT | O.RDWR);
    await a.pwrite(fd, 0, 'x'.repeat(size));
    const expected = Math.ceil(size / 4096) * 8;
    const cached = [(await b.stat(`f${size}`)).blocks, (await a.fstat(fd)).blocks];
    await a.fsync(fd);
    const written = [(await b.stat(`f${size}`)).blocks, (await a.fstat(fd)).blocks];
    await a.pwrite(fd, 0, 'y');
    const overwritten = [(await b.stat(`f${size}`)).blocks, (await a.fstat(fd)).blocks];
    const reader = await b.open(`f${size}`, O.RDONLY);
    await b.pread(reader, 0, 10);
    const read = [(await b.fstat(reader)).blocks, (await a.stat(`f${size}`)).blocks];
    assert.deepEqual(
      [size, cached, written, overwritten, read],
      [size, ...Array.from({ length: 4 }, () => [expected, expected])],
    );
  }
});

test('truncates of one side cut what the other has cached, and what it has dirty', async (t) => {
  const { a, b } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 0, 'x'.repeat(20_000));
  assert.equal((await b.readFile('f')).length, 20_000);
  await b.call('truncate', { path: 'f', length: 5000 });
  assert.deepEqual([(await a.fstat(fd)).size, await a.pread(fd, 4990, 100)], [5000, 'x'.repeat(10)]);
  await a.pwrite(fd, 10_000, 'y');
  assert.equal(await b.readFile('f'), `${'x'.repeat(5000)}${'\0'.repeat(5000)}y`);
  await b.open('f', O.WRONLY | O.TRUNC);
  assert.deepEqual([(await a.fstat(fd)).size, await a.readFile('f')], [0, '']);
});

test('punched, reserved, zeroed and copied ranges are seen from the other side', async (t) => {
  const { a, b } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 0, 'x'.repeat(16384));
  const reader = await b.open('f', O.RDONLY);
  assert.equal((await b.pread(reader, 0, 16384)).length, 16384);
  await a.call('fallocate', { fd, mode: FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, offset: 4096, length: 4096 });
  assert.equal(await b.pread(reader, 4090, 12), `${'x'.repeat(6)}${'\0'.repeat(6)}`);
  assert.deepEqual(
    [await b.lseek(reader, 0, SEEK.HOLE), await b.lseek(reader, 4096, SEEK.DATA)],
    [4096, 8192],
  );
  await a.call('fallocate', { fd, mode: 0, offset: 0, length: MIB });
  assert.equal((await b.fstat(reader)).size, MIB);
  const source = await a.open('source', O.CREAT | O.RDWR);
  await a.pwrite(source, 0, 'copied');
  await a.call('copy_range', { fd: source, offset: 0, toFd: fd, toOffset: 4100, length: 6 });
  assert.equal(await b.pread(reader, 4098, 10), '\0\0copied\0\0');
});

test('stores to a shared mapping are read by the other side, and its writes are seen in the mapping', async (t) => {
  const { a, b } = await shared.place(t);
  const fd = await a.open('f', O.CREAT | O.RDWR);
  await a.pwrite(fd, 0, '.'.repeat(12_288));
  const map = await a.call<number>('mmap', { fd, length: 12_288 });
  const reader = await b.open('f', O.RDWR);
  for (let round = 0; round < 5; round++) {
    await a.call('map_write', { map, offset: 4090, data: `store ${round}` });
    assert.equal(await b.pread(reader, 4090, 7), `store ${round}`);
    await b.pwrite(reader, 8190, `write ${round}`);
    assert.equal(await a.call('map_read', { map, offset: 8190, length: 7 }), `write ${round}`);
    assert.equal(await a.call('map_read', { map, offset: 4090, length: 7 }), `store ${round}`);
  }
});

test('mappings on both sides see each other', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('f', '\0'.repeat(4096));
  const mapOf = async (agent: Agent): Promise<number> =>
    agent.call('mmap', { fd: await agent.open('f', O.RDWR), length: 4096 });
  const [mapA, mapB] = [await mapOf(a), await mapOf(b)];
  for (let round = 0; round < 5; round++) {
    await a.call('map_write', { map: mapA, offset: 0, data: `a${round}` });
    assert.equal(await b.call('map_read', { map: mapB, offset: 0, length: 2 }), `a${round}`);
    await b.call('map_write', { map: mapB, offset: 100, data: `b${round}` });
    assert.equal(await a.call('map_read', { map: mapA, offset: 100, length: 2 }), `b${round}`);
  }
});

/** What the other side does to a file of one page. It is four pages long then, and its third page begins with 'c'. */
const EXTENSIONS: Record<string, (agent: Agent, fd: number) => Promise<unknown>> = {
  write: () => Promise.resolve(),
  ftruncate: (agent, fd) => agent.call('ftruncate', { fd, length: 4 * 4096 }),
  fallocate: (agent, fd) => agent.call('fallocate', { fd, mode: 0, offset: 0, length: 4 * 4096 }),
  'shrink and grow': async (agent, fd) => {
    await agent.call('ftruncate', { fd, length: 1 });
    await agent.call('ftruncate', { fd, length: 4 * 4096 });
  },
};
/** After each of these the kernel of this side knows the new size. */
const LOOKS: Record<string, (agent: Agent, fd: number) => Promise<unknown>> = {
  fstat: (agent, fd) => agent.fstat(fd),
  stat: (agent) => agent.stat('f'),
  'lseek to the end': (agent, fd) => agent.call('lseek', { fd, offset: 0, whence: SEEK.END }),
  'read past the old end': (agent, fd) => agent.pread(fd, 0, 8192),
  open: async (agent) => agent.close(await agent.open('f', O.RDONLY)),
};

for (const [how, extend] of Object.entries(EXTENSIONS)) {
  test(`a mapping shows what the other side has added by ${how}, once this side has looked at the size`, async (t) => {
    const { a, b } = await shared.place(t);
    for (const [look, looks] of Object.entries(LOOKS)) {
      await a.writeFile('f', 'a'.repeat(4096));
      const fd = await b.open('f', O.RDONLY);
      const map = await b.call('map_at_once', { fd, length: 4 * 4096 });
      assert.equal(await b.call('map_read', { map, offset: 0, length: 1 }), 'a');
      const wfd = await a.open('f', O.RDWR);
      await extend(a, wfd);
      await a.pwrite(wfd, 2 * 4096, 'c'.repeat(2 * 4096));
      await a.close(wfd);
      await looks(b, fd);
      assert.equal(await b.call('map_read', { map, offset: 2 * 4096, length: 1 }), 'c', look);
      await b.close(fd);
      await a.unlink('f');
    }
  });
}

test('of many who create one name with O_EXCL, one wins', async (t) => {
  const { a, b } = await shared.place(t);
  for (let round = 0; round < 10; round++) {
    const tries = [a, b, a, b].map((agent) => agent.open(`lock${round}`, O.CREAT | O.EXCL | O.WRONLY));
    const results = await Promise.allSettled(tries);
    const winners = results.filter((result) => result.status === 'fulfilled').length;
    const refused = results.filter(
      (result) => result.status === 'rejected' && result.reason.code === 'EEXIST',
    ).length;
    assert.deepEqual([winners, refused], [1, 3]);
  }
});

test('a directory filled from both sides lists all names on both', async (t) => {
  const { a, b } = await shared.place(t);
  await Promise.all(
    Array.from({ length: 100 }, (_, at) => [a.writeFile(`a${at}`, ''), b.writeFile(`b${at}`, '')]).flat(),
  );
  const names = Array.from({ length: 100 }, (_, at) => [`a${at}`, `b${at}`])
    .flat()
    .sort();
  assert.deepEqual([await a.list(), await b.list()], [names, names]);
});

test('a name that both sides create and remove in a race is never seen with the wrong content', async (t) => {
  const { a, b } = await shared.place(t);
  await a.writeFile('f', 'a');
  const writer = (async () => {
    for (let round = 0; round < 40; round++) {
      await a.writeFile('next', `${round}`.padStart(6, '0'));
      await a.rename('next', 'f');
    }
  })();
  let last = -1;
  for (let round = 0; round < 60; round++) {
    const seen = Number(await b.readFile('f').catch(() => String(last)));
    if (Number.isNaN(seen)) continue; // the first content
    assert.ok(seen >= last, `${seen} after ${last}: time went back`);
    last = seen;
  }
  await writer;
  assert.equal(await b.readFile('f'), '000039');
});

/** Reads at the end of a file that the other side extends, by several processes. */
async function readGrowingEnd(t: TestContext, readers: number): Promise<Record<string, number>> {
  const { path } = await shared.place(t);
  const script = join(packageRoot(), 'test', 'fixtures', 'growing_end.py');
  const stdout = await runOk('python3', [script, path('', 1), path('', 0), '4', String(readers)]);
  t.diagnostic(stdout.trim());
  const counted = JSON.parse(stdout) as Record<string, number>;
  assert.equal(counted.failed, 0);
  assert.ok((counted.appends ?? 0) > 0 && (counted.reads ?? 0) > 0, stdout);
  return counted;
}

test('what one side appends, a process of the other reads as it was written', async (t) => {
  const { zeros } = await readGrowingEnd(t, 1);
  assert.equal(zeros, 0);
});

/** Linux lets a process see zeros for a moment where another one learns the size late (docs/SEMANTICS.md). */
test('what one side appends, no process of the other goes on reading as zeros', async (t) => {
  const { lasting } = await readGrowingEnd(t, 2);
  assert.equal(lasting, 0);
});
