/** The fuse-native driver on a real kernel mount: a filesystem in memory in this process, callers in others. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { FuseMount } from '../../../../mount/fuse_mount.js';
import {
  FUSE_NATIVE_LIMITS,
  type FuseNativeMountOptions,
  loadFailure,
  startFuseNativeMount,
} from '../../../../mount/fuse_native/driver.js';
import { FuseNativeOps } from '../../../../mount/fuse_native/ops.js';
import { mountAt } from '../../../../mount/mount_table.js';
import { packageRoot } from '../../../../native/binding.js';
import { S_IFIFO, S_IFMT } from '../../../../src/base/attr.js';
import { FsError } from '../../../../src/base/errno.js';
import { nodeTimers } from '../../../../src/runtime/node_clock.js';
import { Agent, LOCK, O } from '../../../fixtures/agent.js';
import { runOk } from '../../../fixtures/child.js';
import { MemoryHandlers } from '../../../fixtures/memory_handlers.js';
import { within } from '../../../fixtures/until.js';

const installed = existsSync(join(packageRoot(), 'node_modules', 'fuse-native'));
const skip =
  process.getuid?.() !== 0 ? 'mounting needs root' : installed ? false : 'fuse-native is not installed';

const DEFAULTS: Omit<FuseNativeMountOptions, 'mountpoint'> = {
  source: 'server:7988,other:7988',
  allowOther: true,
  mountFlags: 0,
  timers: nodeTimers,
};

async function mounted(t: TestContext, handlers: MemoryHandlers): Promise<FuseMount> {
  const mountpoint = mkdtempSync(join(tmpdir(), 'holdfast-fuse-native-'));
  const mount = await startFuseNativeMount(handlers, { ...DEFAULTS, mountpoint });
  t.after(async () => {
    await mount.unmount('force');
    await mount.closed;
    assert.equal(mountAt(mountpoint), undefined, 'no mount is left');
    rmdirSync(mountpoint);
  });
  return mount;
}

async function agentOn(t: TestContext, mount: FuseMount): Promise<Agent> {
  const agent = new Agent(mount.mountpoint);
  t.after(async () => {
    agent.child.kill('SIGKILL');
    await agent.child.exited;
  });
  await agent.call('umask', { mask: 0 });
  return agent;
}

test('a mount is usable when it is started, and gone when it is unmounted', { skip }, async (t) => {
  const handlers = new MemoryHandlers();
  const mount = await mounted(t, handlers);
  const line = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .find((entry) => entry.includes(mount.mountpoint));
  assert.match(
    line ?? '',
    new RegExp(
      `^server:7988,other:7988 ${mount.mountpoint} fuse\\.holdfast rw,.*default_permissions,allow_other`,
    ),
  );
  const script =
    'cd "$1" && echo hello > greeting && mkdir -p a/b && mv greeting a/b/ && cat a/b/greeting && ls -la a';
  await runOk('sh', ['-c', script, 'sh', mount.mountpoint]);
  await mount.unmount();
  await within('the mount ends', mount.closed);
  assert.deepEqual(
    [mountAt(mount.mountpoint), handlers.destroyed, handlers.openHandleCount],
    [undefined, true, 0],
  );
  assert.deepEqual(
    [...handlers.nodes.values()].map((node) => node.nlookup),
    [...handlers.nodes.keys()].map((nodeid) => (nodeid === 1 ? 1 : 0)),
    'every lookup was given back',
  );
});

test('files: data at every offset, truncation, requests larger than 128 KiB', { skip }, async (t) => {
  const agent = await agentOn(t, await mounted(t, new MemoryHandlers()));
  const data = Array.from({ length: 300_007 }, (_, i) => String.fromCharCode(97 + (i % 26))).join('');
  await agent.writeFile('big', data);
  assert.equal(await agent.readFile('big'), data);
  const fd = await agent.open('big', O.RDWR);
  await agent.pwrite(fd, 5, 'XYZ');
  await agent.ftruncate(fd, 10);
  assert.deepEqual([await agent.pread(fd, 0, 100), (await agent.fstat(fd)).size], ['abcdeXYZij', 10]);
  await agent.ftruncate(fd, 12);
  assert.equal(await agent.pread(fd, 8, 100), 'ij\0\0');
  await agent.fsync(fd);
  await agent.close(fd);
  await assert.rejects(agent.open('none', O.RDONLY), /ENOENT/);
  await assert.rejects(agent.open('big', O.RDWR | O.CREAT | O.EXCL), /EEXIST/);
});

test('names: directories, links, rename over a file, special files, long names', { skip }, async (t) => {
  const agent = await agentOn(t, await mounted(t, new MemoryHandlers()));
  await agent.mkdir('d');
  await agent.writeFile('d/one', '1');
  await agent.writeFile('d/two', '2');
  await agent.rename('d/one', 'd/two');
  assert.equal(await agent.readFile('d/two'), '1');
  await agent.link('d/two', 'hard');
  await agent.symlink('d/zwölf', 'soft');
  assert.deepEqual([(await agent.stat('hard')).nlink, await agent.readlink('soft')], [2, 'd/zwölf']);
  assert.equal((await agent.stat('hard')).ino, (await agent.stat('d/two')).ino);
  await agent.call('mknod', { path: 'fifo', mode: S_IFIFO | 0o600 });
  assert.equal((await agent.lstat('fifo')).mode & S_IFMT, S_IFIFO);
  const long = 'ü'.repeat(127);
  await agent.writeFile(long, 'x');
  await assert.rejects(agent.writeFile('n'.repeat(256), 'x'), /ENAMETOOLONG/);
  assert.deepEqual(await agent.list(), ['d', 'fifo', 'hard', 'soft', long].sort());
  await assert.rejects(agent.rmdir('d'), /ENOTEMPTY/);
  await agent.unlink('d/two');
  await agent.rmdir('d');
  await assert.rejects(agent.stat('d'), /ENOENT/);
  await assert.rejects(agent.writeFile('\udcff', 'x'), /EINVAL/);
});

test('a directory of 3,000 names is listed whole', { skip }, async (t) => {
  const handlers = new MemoryHandlers();
  const agent = await agentOn(t, await mounted(t, handlers));
  const request = { opcode: 0, uid: 0, gid: 0, pid: 0, signal: new AbortController().signal };
  const names = Array.from({ length: 3000 }, (_, index) => `name-${index}`);
  for (const name of names) handlers.mknod(request, 1, name, { mode: 0o100644, umask: 0, rdev: 0 });
  assert.deepEqual((await agent.list()).sort(), names.sort());
});

test('attributes: modes, owners, xattrs of any size', { skip }, async (t) => {
  const agent = await agentOn(t, await mounted(t, new MemoryHandlers()));
  await agent.writeFile('f', 'data');
  await agent.call('chmod', { path: 'f', mode: 0o4751 });
  await agent.call('chown', { path: 'f', uid: 5, gid: 6 });
  const { mode, uid, gid } = await agent.stat('f');
  assert.deepEqual([mode & 0o777, uid, gid], [0o751, 5, 6]);
  await agent.call('utimens', { path: 'f', atimeNs: '1600000000123456789', mtimeNs: '1600000000123456789' });
  assert.equal((await agent.stat('f')).mtimeNs, '1600000000123000000');
  const value = 'v'.repeat(10_000);
  await agent.call('setxattr', { path: 'f', name: 'user.a', value });
  await agent.call('setxattr', { path: 'f', name: 'user.b', value: '' });
  assert.equal(await agent.call('getxattr', { path: 'f', name: 'user.a' }), value);
  assert.equal(await agent.call('getxattr', { path: 'f', name: 'user.b' }), '');
  assert.deepEqual(await agent.call('listxattr', { path: 'f' }), ['user.a', 'user.b']);
  await agent.call('removexattr', { path: 'f', name: 'user.a' });
  await assert.rejects(agent.call('getxattr', { path: 'f', name: 'user.a' }), /ENODATA/);
});

test('a file that is removed while open stays usable through its descriptor', { skip }, async (t) => {
  const handlers = new MemoryHandlers();
  const agent = await agentOn(t, await mounted(t, handlers));
  const fd = await agent.open('f', O.RDWR | O.CREAT);
  await agent.write(fd, 'before');
  await agent.unlink('f');
  await assert.rejects(agent.stat('f'), /ENOENT/);
  await agent.pwrite(fd, 6, ' after');
  assert.equal(await agent.pread(fd, 0, 100), 'before after');
  assert.equal((await agent.fstat(fd)).size, 12);
  await agent.close(fd);
});

test('a change made behind the mount is seen at once: nothing is cached', { skip }, async (t) => {
  const handlers = new MemoryHandlers();
  const mount = await mounted(t, handlers);
  const agent = await agentOn(t, mount);
  await agent.writeFile('f', 'before');
  const fd = await agent.open('f', O.RDONLY);
  assert.equal(await agent.pread(fd, 0, 10), 'before');
  const root = handlers.nodes.get(1);
  const node = handlers.nodes.get(root?.entries.get('f')?.nodeid ?? 0);
  assert.ok(root !== undefined && node !== undefined);
  node.data = Buffer.from('behind');
  assert.equal(await agent.pread(fd, 0, 10), 'behind');
  const entry = root.entries.get('f');
  assert.ok(entry !== undefined);
  root.entries.delete('f');
  root.entries.set('g', entry);
  await assert.rejects(agent.stat('f'), /ENOENT/);
  assert.equal((await agent.stat('g')).size, 6);
  assert.equal(await mount.notifier.bumpEpoch(), true);
});

test('locks hold among processes of this host', { skip }, async (t) => {
  const mount = await mounted(t, new MemoryHandlers());
  const [one, two] = [await agentOn(t, mount), await agentOn(t, mount)];
  await one.writeFile('f', 'x');
  const [fd1, fd2] = [await one.open('f', O.RDWR), await two.open('f', O.RDWR)];
  await one.call('flock', { fd: fd1, operation: LOCK.EX });
  await assert.rejects(two.call('flock', { fd: fd2, operation: LOCK.EX | LOCK.NB }), /EAGAIN/);
  await one.call('lock', { fd: fd1, type: 'write', how: 'set' });
  await assert.rejects(two.call('lock', { fd: fd2, type: 'write', how: 'set' }), /EAGAIN|EACCES/);
});

test('a mount with open files is not taken away unless forced', { skip }, async (t) => {
  const mount = await mounted(t, new MemoryHandlers());
  const agent = await agentOn(t, mount);
  const fd = await agent.open('f', O.RDWR | O.CREAT);
  await assert.rejects(mount.unmount(), (error) => error instanceof FsError && error.code === 'EBUSY');
  await mount.unmount('force');
  await within('the mount ends', mount.closed);
  await assert.rejects(agent.pread(fd, 0, 1), /ECONNABORTED|ENOTCONN|EIO/);
});

test('a mount that is detached serves the files that are open until they are closed', { skip }, async (t) => {
  const mount = await mounted(t, new MemoryHandlers());
  const agent = await agentOn(t, mount);
  const fd = await agent.open('f', O.RDWR | O.CREAT);
  await mount.unmount('detach');
  assert.equal(mountAt(mount.mountpoint), undefined);
  await agent.pwrite(fd, 0, 'still here');
  assert.equal(await agent.pread(fd, 0, 10), 'still here');
  await agent.close(fd);
  await within('the mount ends', mount.closed);
});

test('who unmounts from outside ends the mount', { skip }, async (t) => {
  const handlers = new MemoryHandlers();
  const mount = await mounted(t, handlers);
  await runOk('umount', [mount.mountpoint]);
  await within('the mount ends', mount.closed);
  assert.equal(handlers.destroyed, true);
});

test('what is missing is said in one line with the way out', () => {
  const library = new Error('libfuse.so.2: cannot open shared object file: No such file or directory');
  const absent = Object.assign(new Error("Cannot find module 'fuse-native'\nRequire stack:"), {
    code: 'MODULE_NOT_FOUND',
  });
  assert.deepEqual(
    [library, absent, new Error('other\nlines')].map((error) => loadFailure(error).message),
    [
      'driver=fuse-native needs libfuse.so.2: apt-get install libfuse2 fuse3',
      'driver=fuse-native needs the package fuse-native: npm install fuse-native',
      'driver=fuse-native cannot be loaded: other',
    ],
  );
  for (const limit of FUSE_NATIVE_LIMITS) assert.ok(!limit.includes('\n'));
});

test('references are given back when many nodes were looked up, open files keep theirs', async () => {
  const handlers = new MemoryHandlers();
  const ops = new FuseNativeOps(handlers, 10);
  const result = (start: (done: (result: number, ...values: unknown[]) => void) => void): Promise<number> =>
    new Promise((resolve) => start((code, value) => resolve(code < 0 ? code : Number(value ?? code))));
  const fd = await result((done) => ops.create('/open', 0o644, done));
  for (let index = 0; index < 50; index++) {
    assert.equal(await result((done) => ops.mkdir(`/dir${index}`, 0o755, done)), 0);
  }
  assert.equal(ops.references.count, 10);
  assert.equal(handlers.nodes.get(16)?.nlookup, 1);
  assert.equal(await result((done) => ops.release('/open', fd, done)), 0);
  assert.equal(await result((done) => ops.getattr('/dir3/none', done)), -2);
  assert.equal(await result((done) => ops.read('/open', fd, Buffer.alloc(1), 1, 0, done)), -9);
  assert.deepEqual([ops.openCount, ops.waiting()], [0, []]);
  ops.end();
  assert.equal(
    [...handlers.nodes.values()].reduce((sum, node) => sum + node.nlookup, 0),
    1,
  );
});
