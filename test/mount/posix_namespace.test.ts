/** Names, attributes, links and extended attributes, as any local filesystem of Linux has them. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { type DirentSeen, O, RENAME, type Stat } from '../fixtures/agent.js';
import { run } from '../fixtures/child.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';

const S_IFMT = 0o170000;
const TYPE = {
  fifo: 0o010000,
  char: 0o020000,
  dir: 0o040000,
  block: 0o060000,
  file: 0o100000,
  link: 0o120000,
  socket: 0o140000,
};
const shared = sharedCluster();

const typeOf = (stat: Stat): number => stat.mode & S_IFMT;
const modeOf = (stat: Stat): number => stat.mode & 0o7777;

test('a new file has the mode that was asked for without the umask, the caller as owner, and no content', async (t) => {
  const { a } = await shared.place(t);
  await a.call('umask', { mask: 0o027 });
  const fd = await a.open('f', O.CREAT | O.EXCL | O.RDWR, 0o666);
  const stat = await a.fstat(fd);
  assert.deepEqual(
    [typeOf(stat), modeOf(stat), stat.uid, stat.gid, stat.nlink, stat.size, stat.blocks],
    [TYPE.file, 0o640, 0, 0, 1, 0, 0],
  );
});

test('O_EXCL refuses an existing name, a plain O_CREAT opens it, O_TRUNC empties it', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('f', 'content');
  await assert.rejects(a.open('f', O.CREAT | O.EXCL | O.RDWR), { code: 'EEXIST' });
  const fd = await a.open('f', O.CREAT | O.RDONLY);
  assert.equal(await a.read(fd, 100), 'content');
  await a.open('f', O.WRONLY | O.TRUNC);
  assert.equal((await a.fstat(fd)).size, 0);
});

test('what is not there is ENOENT, what is no directory ENOTDIR, also after it was looked up before', async (t) => {
  const { a } = await shared.place(t);
  for (let round = 0; round < 2; round++) {
    await assert.rejects(a.stat('no'), { code: 'ENOENT' });
    await assert.rejects(a.stat('no/deeper'), { code: 'ENOENT' });
    await assert.rejects(a.unlink('no'), { code: 'ENOENT' });
  }
  await a.writeFile('f', '');
  await assert.rejects(a.stat('f/x'), { code: 'ENOTDIR' });
  await assert.rejects(a.rmdir('f'), { code: 'ENOTDIR' });
  await a.writeFile('no', '');
  assert.equal((await a.stat('no')).size, 0);
});

test('mkdir and rmdir keep the link count of the parent, and rmdir refuses what is not empty', async (t) => {
  const { a } = await shared.place(t);
  await a.mkdir('d', 0o750);
  const made = await a.stat('d');
  await a.mkdir('d/sub');
  const withSub = await a.stat('d');
  await assert.rejects(a.rmdir('d'), { code: 'ENOTEMPTY' });
  await assert.rejects(a.unlink('d'), { code: 'EISDIR' });
  await assert.rejects(a.mkdir('d/sub'), { code: 'EEXIST' });
  await a.rmdir('d/sub');
  const after = await a.stat('d');
  await a.rmdir('d');
  await assert.rejects(a.stat('d'), { code: 'ENOENT' });
  assert.deepEqual(
    [typeOf(made), modeOf(made), made.nlink, withSub.nlink, after.nlink],
    [TYPE.dir, 0o750, 2, 3, 2],
  );
});

test('a directory lists dot, dot-dot and every name once, from any position on', async (t) => {
  const { a } = await shared.place(t);
  const names: string[] = [];
  await a.mkdir('d');
  for (let at = 0; at < 700; at++) {
    names.push(`file with a name of some length ${at}`);
    await a.writeFile(`d/${names.at(-1)}`, '');
  }
  const fd = await a.open('d', O.RDONLY | O.DIRECTORY);
  const entries: DirentSeen[] = [];
  for (;;) {
    const some = await a.getdents(fd, 1000);
    if (some.length === 0) break;
    entries.push(...some);
  }
  assert.deepEqual(entries.map((entry) => entry.name).sort(), ['.', '..', ...names].sort());
  for (const index of [0, 1, 5, 333, 699]) {
    await a.lseek(fd, entries[index]?.position ?? '', 0);
    const [next] = await a.getdents(fd, 1000);
    assert.equal(next?.name, entries[index + 1]?.name);
  }
  const inoOf = (name: string): number | undefined => entries.find((entry) => entry.name === name)?.ino;
  assert.deepEqual([inoOf('.'), inoOf('..')], [(await a.stat('d')).ino, (await a.stat('')).ino]);
});

test('a directory read while names come and go shows every name that stayed, once', async (t) => {
  const { a } = await shared.place(t);
  for (let at = 0; at < 200; at++) await a.writeFile(`stays ${at}`, '');
  const fd = await a.open('', O.RDONLY | O.DIRECTORY);
  const seen: string[] = [];
  for (let round = 0; ; round++) {
    const some = await a.getdents(fd, 600);
    if (some.length === 0) break;
    seen.push(...some.map((entry) => entry.name).filter((name) => name.startsWith('stays')));
    await a.writeFile(`comes ${round}`, '');
    if (round > 0) await a.unlink(`comes ${round - 1}`);
  }
  assert.deepEqual(seen.sort(), Array.from({ length: 200 }, (_, at) => `stays ${at}`).sort());
});

test('an unlinked open file goes on working, and its name is free', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('f', 'old');
  const fd = await a.open('f', O.RDWR);
  await a.unlink('f');
  await a.writeFile('f', 'new');
  await a.pwrite(fd, 3, 'er');
  assert.deepEqual(
    [await a.pread(fd, 0, 10), (await a.fstat(fd)).nlink, await a.readFile('f')],
    ['older', 0, 'new'],
  );
});

test('hard links share an inode, and directories have none', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('one', 'text');
  await a.link('one', 'two');
  await a.mkdir('d');
  const [one, two] = [await a.stat('one'), await a.stat('two')];
  await a.unlink('one');
  assert.deepEqual(
    [two.ino, one.nlink, (await a.stat('two')).nlink, await a.readFile('two')],
    [one.ino, 2, 1, 'text'],
  );
  await assert.rejects(a.link('d', 'd2'), { code: 'EPERM' });
  await assert.rejects(a.link('two', 'd'), { code: 'EEXIST' });
  await assert.rejects(a.link('no', 'x'), { code: 'ENOENT' });
});

test('symbolic links hold any text and lead where it says', async (t) => {
  const { a } = await shared.place(t);
  const long = 'x'.repeat(4000);
  await a.writeFile('target', 'here');
  await a.symlink('target', 'good');
  await a.symlink('nowhere', 'dangling');
  await a.symlink('loop', 'loop');
  await a.symlink(long, 'long');
  const link = await a.lstat('good');
  assert.deepEqual(
    [
      typeOf(link),
      link.size,
      await a.readFile('good'),
      await a.readlink('dangling'),
      await a.readlink('long'),
    ],
    [TYPE.link, 6, 'here', 'nowhere', long],
  );
  await assert.rejects(a.stat('dangling'), { code: 'ENOENT' });
  await assert.rejects(a.stat('loop'), { code: 'ELOOP' });
  await assert.rejects(a.symlink('other', 'good'), { code: 'EEXIST' });
  await assert.rejects(a.readlink('target'), { code: 'EINVAL' });
});

test('fifos, sockets and device nodes keep their type and number', async (t) => {
  const { a } = await shared.place(t);
  const device = (12 << 8) | 34;
  const nodes = { fifo: 0, socket: 0, char: device, block: device };
  for (const [name, number] of Object.entries(nodes)) {
    await a.call('mknod', { path: name, mode: TYPE[name as keyof typeof nodes] | 0o600, device: number });
    const stat = await a.stat(name);
    assert.deepEqual([typeOf(stat), stat.rdev], [TYPE[name as keyof typeof nodes], number], name);
  }
  await a.call('mknod', { path: 'plain', mode: TYPE.file | 0o600 });
  assert.equal(typeOf(await a.stat('plain')), TYPE.file);
});

test('rename replaces a file, moves across directories, and keeps the inode', async (t) => {
  const { a } = await shared.place(t);
  await a.mkdir('d');
  await a.writeFile('new', 'new');
  await a.writeFile('d/old', 'old');
  const { ino } = await a.stat('new');
  const fd = await a.open('d/old', O.RDONLY);
  await a.rename('new', 'd/old');
  assert.deepEqual(
    [(await a.stat('d/old')).ino, await a.readFile('d/old'), await a.read(fd, 9), (await a.fstat(fd)).nlink],
    [ino, 'new', 'old', 0],
  );
  await assert.rejects(a.stat('new'), { code: 'ENOENT' });
  await a.rename('d/old', 'd/old');
  assert.equal(await a.readFile('d/old'), 'new');
});

test('rename of directories: onto an empty one, never onto a full one, a file or below itself', async (t) => {
  const { a } = await shared.place(t);
  for (const path of ['from', 'from/sub', 'empty', 'full', 'full/x', 'other']) await a.mkdir(path);
  await a.writeFile('file', '');
  await assert.rejects(a.rename('from', 'full'), { code: 'ENOTEMPTY' });
  await assert.rejects(a.rename('from', 'file'), { code: 'ENOTDIR' });
  await assert.rejects(a.rename('file', 'empty'), { code: 'EISDIR' });
  await assert.rejects(a.rename('from', 'from/sub/deeper'), { code: 'EINVAL' });
  await assert.rejects(a.rename('no', 'x'), { code: 'ENOENT' });
  await a.rename('from', 'empty');
  const before = (await a.stat('other')).nlink;
  await a.rename('empty', 'other/moved');
  const entries = await a.getdents(await a.open('other/moved', O.RDONLY | O.DIRECTORY), 4096);
  const parent = entries.find((entry) => entry.name === '..')?.ino;
  assert.deepEqual(
    [await a.list('other/moved'), (await a.stat('other')).nlink - before, parent],
    [['sub'], 1, (await a.stat('other')).ino],
  );
});

test('two hard links of one inode renamed onto each other both stay', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('one', '');
  await a.link('one', 'two');
  await a.rename('one', 'two');
  assert.deepEqual(await a.list(), ['one', 'two']);
});

test('RENAME_NOREPLACE refuses what is there, RENAME_EXCHANGE swaps whatever the two are', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('file', 'text');
  await a.mkdir('dir');
  await a.writeFile('dir/inside', '');
  await assert.rejects(a.rename('file', 'dir', RENAME.NOREPLACE), { code: 'EEXIST' });
  await a.rename('file', 'moved', RENAME.NOREPLACE);
  await a.rename('moved', 'dir', RENAME.EXCHANGE);
  assert.deepEqual([await a.readFile('dir'), await a.list('moved')], ['text', ['inside']]);
  await assert.rejects(a.rename('dir', 'no', RENAME.EXCHANGE), { code: 'ENOENT' });
});

test('chmod, chown and utimensat change what they name, and the ctime', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('f', '');
  const before = await a.stat('f');
  await a.call('chmod', { path: 'f', mode: 0o4711 });
  await a.call('chown', { path: 'f', uid: 12345, gid: 54321 });
  const owned = await a.stat('f');
  await a.call('utimens', { path: 'f', atimeNs: '1000000000123456789', mtimeNs: '-5000000000' });
  const timed = await a.stat('f');
  assert.deepEqual(
    [before.uid, owned.uid, owned.gid, timed.atimeNs, timed.mtimeNs, modeOf(timed)],
    // chown drops the set-user-id bit of an executable file
    [0, 12345, 54321, '1000000000123456789', '-5000000000', 0o711],
  );
  assert.ok(BigInt(timed.ctimeNs) >= BigInt(before.ctimeNs));
  await a.call('chmod', { path: 'f', mode: 0o6755 });
  assert.equal(modeOf(await a.stat('f')), 0o6755);
});

test('times move as POSIX says: write moves mtime, names move the directory, chmod moves ctime alone', async (t) => {
  const { a } = await shared.place(t);
  const past = '1000000000000000000';
  await a.mkdir('d');
  await a.writeFile('d/f', 'x');
  await a.call('utimens', { path: 'd/f', atimeNs: past, mtimeNs: past });
  await a.call('utimens', { path: 'd', atimeNs: past, mtimeNs: past });
  await a.call('chmod', { path: 'd/f', mode: 0o600 });
  const chmod = await a.stat('d/f');
  await a.pwrite(await a.open('d/f', O.RDWR), 0, 'y');
  const write = await a.stat('d/f');
  const quiet = await a.stat('d');
  await a.writeFile('d/g', '');
  const named = await a.stat('d');
  assert.deepEqual([chmod.mtimeNs, quiet.mtimeNs], [past, past]);
  assert.ok(BigInt(write.mtimeNs) > BigInt(past) && BigInt(named.mtimeNs) > BigInt(past));
});

test('permissions hold for those who are not root: modes, sticky directories, groups', async (t) => {
  const { a, b } = await shared.place(t);
  await a.call('chmod', { path: '', mode: 0o755 });
  await a.writeFile('secret', 'x');
  await a.call('chmod', { path: 'secret', mode: 0o640 });
  await a.call('chown', { path: 'secret', uid: 1, gid: 2000 });
  await a.mkdir('sticky');
  await a.call('chmod', { path: 'sticky', mode: 0o1777 });
  await a.writeFile('sticky/of root', '');
  await b.call('setids', { uid: 1000, gid: 1000, groups: [2000] });
  assert.equal(await b.readFile('secret'), 'x');
  await assert.rejects(b.open('secret', O.WRONLY), { code: 'EACCES' });
  await assert.rejects(b.writeFile('new', ''), { code: 'EACCES' });
  await assert.rejects(b.unlink('sticky/of root'), { code: 'EPERM' });
  await b.writeFile('sticky/mine', '');
  await assert.rejects(b.call('chown', { path: 'sticky/mine', uid: 0, gid: 0 }), { code: 'EPERM' });
  await b.unlink('sticky/mine');
  await a.call('chmod', { path: 'secret', mode: 0o600 });
  await assert.rejects(b.readFile('secret'), { code: 'EACCES' });
});

test('a set-group-id directory hands its group down', async (t) => {
  const { a } = await shared.place(t);
  await a.mkdir('d');
  await a.call('chown', { path: 'd', uid: 0, gid: 777 });
  await a.call('chmod', { path: 'd', mode: 0o2775 });
  await a.writeFile('d/f', '');
  await a.mkdir('d/sub', 0o755);
  const [file, sub] = [await a.stat('d/f'), await a.stat('d/sub')];
  assert.deepEqual([file.gid, sub.gid, modeOf(sub)], [777, 777, 0o2755]);
});

test('a write by somebody else drops the set-user-id and set-group-id bits', async (t) => {
  const { a, b, path } = await shared.place(t);
  await a.call('chmod', { path: '', mode: 0o755 });
  await a.writeFile('f', 'x');
  await a.call('chmod', { path: 'f', mode: 0o6777 });
  await b.call('setids', { uid: 1000, gid: 1000 });
  const fd = await b.open('f', O.WRONLY);
  // stat(1) asks statx(2) for the mode alone, as execve(2) does: the kernel does not ask us for that after a write.
  const modeAlone = async (): Promise<string> => (await run('stat', ['-c', '%a', path('f')])).stdout.trim();
  const before = await modeAlone();
  await b.pwrite(fd, 0, 'y');
  assert.deepEqual([before, await modeAlone(), modeOf(await a.stat('f'))], ['6777', '777', 0o777]);
});

test('extended attributes are set, replaced, listed and removed, with the flags of setxattr', async (t) => {
  const { a } = await shared.place(t);
  await a.writeFile('f', '');
  const set = (name: string, value: string, flags = 0): Promise<void> =>
    a.call('setxattr', { path: 'f', name, value, flags });
  await set('user.one', 'first');
  await set('user.empty', '');
  await set('trusted.bytes', '\x00\xff\x80');
  await assert.rejects(set('user.one', 'x', 1), { code: 'EEXIST' });
  await assert.rejects(set('user.two', 'x', 2), { code: 'ENODATA' });
  await set('user.one', 'second', 2);
  const get = (name: string): Promise<string> => a.call('getxattr', { path: 'f', name });
  assert.deepEqual(
    [
      await get('user.one'),
      await get('user.empty'),
      await get('trusted.bytes'),
      await a.call('listxattr', { path: 'f' }),
    ],
    ['second', '', '\x00\xff\x80', ['trusted.bytes', 'user.empty', 'user.one']],
  );
  await a.call('removexattr', { path: 'f', name: 'user.one' });
  await assert.rejects(get('user.one'), { code: 'ENODATA' });
  await assert.rejects(a.call('removexattr', { path: 'f', name: 'user.one' }), { code: 'ENODATA' });
});

test('extended attributes belong to the inode: they follow a rename and stay with directories', async (t) => {
  const { a } = await shared.place(t);
  await a.mkdir('d');
  await a.call('setxattr', { path: 'd', name: 'user.k', value: 'v'.repeat(2000) });
  await a.rename('d', 'e');
  assert.equal(await a.call('getxattr', { path: 'e', name: 'user.k' }), 'v'.repeat(2000));
});

test('names of 255 bytes and of any bytes work; longer ones are ENAMETOOLONG everywhere', async (t) => {
  const { a } = await shared.place(t);
  const long = 'ä'.repeat(127).concat('x');
  const bytes = '\udcff\udc80 \n\t\x01"\\*';
  await a.writeFile(long, 'long');
  await a.writeFile(bytes, 'bytes');
  await a.mkdir('\udcfe');
  await a.rename(bytes, `\udcfe/${bytes}`);
  assert.deepEqual(
    [await a.readFile(long), await a.readFile(`\udcfe/${bytes}`), await a.list(), await a.list('\udcfe')],
    ['long', 'bytes', [long, '\udcfe'].sort(), [bytes]],
  );
  const tooLong = 'x'.repeat(256);
  const refused = { code: 'ENAMETOOLONG' };
  await assert.rejects(a.writeFile(tooLong, ''), refused);
  await assert.rejects(a.mkdir(tooLong), refused);
  await assert.rejects(a.stat(tooLong), refused);
  await assert.rejects(a.rename(long, tooLong), refused);
  await assert.rejects(a.link(long, tooLong), refused);
  await assert.rejects(a.symlink('x', tooLong), refused);
  await assert.rejects(a.unlink(tooLong), refused);
});

test('O_TMPFILE makes a file without a name, that linkat can give one', async (t) => {
  const { a } = await shared.place(t);
  const fd = await a.open('', O.TMPFILE | O.RDWR, 0o600);
  await a.write(fd, 'hidden');
  const before = [await a.list(), (await a.fstat(fd)).nlink];
  await a.call('link_fd', { fd, to: 'shown' });
  assert.deepEqual([before, await a.readFile('shown'), (await a.fstat(fd)).nlink], [[[], 0], 'hidden', 1]);
  const exclusive = await a.open('', O.TMPFILE | O.RDWR | O.EXCL, 0o600);
  await assert.rejects(a.call('link_fd', { fd: exclusive, to: 'never' }), { code: 'ENOENT' });
});

test('a working directory is known by its path, and may be removed under its process', async (t) => {
  const { a, b } = await shared.place(t);
  await a.mkdir('d');
  await a.call('chdir', { path: 'd' });
  const cwd = await a.call<string>('getcwd');
  await b.rename('d', 'e');
  const moved = await a.call<string>('getcwd');
  await b.rmdir('e');
  await assert.rejects(a.call('getcwd'), { code: 'ENOENT' });
  assert.deepEqual(
    [cwd.endsWith('/d'), moved.endsWith('/e')],
    [true, shared.isReference || moved.endsWith('/e')],
  );
});

test('statfs tells sizes, and names of 255 bytes', async (t) => {
  const { a } = await shared.place(t);
  const before = await a.call<Record<string, number>>('statvfs');
  assert.ok((before.blocks ?? 0) > 0 && (before.blocksFree ?? 0) <= (before.blocks ?? 0));
  assert.equal(before.nameMax, 255);
});

test('fsync of a file and of a directory succeed', async (t) => {
  const { a } = await shared.place(t);
  await a.mkdir('d');
  const fd = await a.open('d/f', O.CREAT | O.RDWR);
  await a.write(fd, 'x');
  await a.fsync(fd);
  await a.call('fdatasync', { fd });
  await a.fsync(await a.open('d', O.RDONLY | O.DIRECTORY));
});
