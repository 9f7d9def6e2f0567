/**
 * An inode that has lost its last name lives on while the kernel of any machine refers to it, as on a local filesystem: between
 * the look at a name and the call on what was found, through O_PATH descriptors, and as a current directory.
 */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { type Agent, O } from '../fixtures/agent.js';
import { runOk } from '../fixtures/child.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';

const shared = sharedCluster({ mounts: 2 });
const script = join(packageRoot(), 'test', 'fixtures', 'replaced_names.py');

/** Who looks at the names: the machine that replaces them, or the other one. */
for (const [where, mount] of [
  ['the other machine', 1],
  ['the same machine', 0],
] as const) {
  test(`no call fails on names that are replaced all the time: ${where}`, async (t) => {
    const { path } = await shared.place(t);
    // 23 calls in each round, most of which open.
    const said = await runOk('python3', [script, path(), path('', mount), mount === 1 ? '8' : '40']);
    const { failures, replacements, writer } = JSON.parse(said);
    t.diagnostic(`${replacements} replacements`);
    assert.deepEqual({ failures, writer }, { failures: {}, writer: 0 });
    assert.ok(replacements > 5);
  });
}

/** Takes the last name of a file or an empty directory away. */
const REMOVALS: Record<string, (agent: Agent, name: string, directory: boolean) => Promise<void>> = {
  removed: (agent, name, directory) => (directory ? agent.rmdir(name) : agent.unlink(name)),
  replaced: async (agent, name, directory) => {
    if (directory) await agent.mkdir('new');
    else await agent.writeFile('new', 'another one');
    await agent.rename('new', name);
  },
};

const proc = (fd: number): string => `/proc/self/fd/${fd}`;

for (const [how, remove] of Object.entries(REMOVALS)) {
  for (const by of ['the same machine', 'the other machine']) {
    test(`a file ${how} by ${by} lives on behind an O_PATH descriptor`, async (t) => {
      const { a, b } = await shared.place(t);
      await a.writeFile('f', 'content');
      await a.call('setxattr', { path: 'f', name: 'user.x', value: 'y' });
      const fd = await a.open('f', O.PATH);
      await remove(by === 'the same machine' ? a : b, 'f', false);
      const { nlink, size } = await a.fstat(fd);
      assert.deepEqual([nlink, size], [0, 7]);
      assert.equal(await a.readFile(proc(fd)), 'content');
      await a.call('chmod', { path: proc(fd), mode: 0o604 });
      await a.call('truncate', { path: proc(fd), length: 3 });
      const cut = await a.fstat(fd);
      assert.deepEqual([cut.mode & 0o777, cut.size], [0o604, 3]);
      assert.equal(await a.call('getxattr', { path: proc(fd), name: 'user.x' }), 'y');
      await assert.rejects(a.call('link_fd', { fd, to: 'again' }), { code: 'ENOENT' });
      const rw = await a.open(proc(fd), O.RDWR);
      await a.pwrite(rw, 3, '!');
      assert.equal(await a.pread(rw, 0, 10), 'con!');
      await a.close(rw);
      assert.equal(await a.readFile(proc(fd)), 'con!');
      await a.close(fd);
    });

    test(`a symbolic link ${how} by ${by} can be read through an O_PATH descriptor`, async (t) => {
      const { a, b } = await shared.place(t);
      await a.symlink('target', 'l');
      const fd = await a.open('l', O.PATH | O.NOFOLLOW);
      await remove(by === 'the same machine' ? a : b, 'l', false);
      assert.equal(await a.call('readlink_fd', { fd }), 'target');
      assert.equal((await a.fstat(fd)).nlink, 0);
      await a.close(fd);
    });

    test(`a current directory ${how} by ${by} is empty and takes no names`, async (t) => {
      const { a, b } = await shared.place(t);
      await a.mkdir('d');
      await a.call('chdir', { path: 'd' });
      await remove(by === 'the same machine' ? a : b, 'd', true);
      const here = '/proc/self/cwd';
      assert.equal((await a.stat(here)).nlink, 0);
      assert.deepEqual(await a.list(here), []);
      for (const refused of [
        () => a.open(`${here}/x`, O.CREAT | O.WRONLY),
        () => a.mkdir(`${here}/x`),
        () => a.symlink('x', `${here}/x`),
        () => a.rename('e', `${here}/x`),
        () => a.lstat(`${here}/x`),
        () => a.unlink(`${here}/x`),
      ]) {
        await a.writeFile('e', '');
        await assert.rejects(refused(), { code: 'ENOENT' });
      }
      await a.call('chdir');
    });
  }
}
