/** SIGTERM to a client whose mount is busy. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { unmountPath } from '../../mount/unmount.js';
import { Child } from '../fixtures/child.js';
import { startCluster } from '../fixtures/cluster.js';
import { mountsUnder } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

/** Ways to hold a mount, each with a file of its own; each says that it does, and ends with its stdin. */
const HOLDERS = {
  'an open file': 'f = open(d + "/f", "w")',
  'a current directory': 'os.chdir(d)',
  'a mapping alone':
    'f = open(d + "/m", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.close()',
};

const SCRIPT = (code: string): string =>
  `import sys, os, mmap\nd = sys.argv[1]\n${code}\nprint("holds", flush=True)\nsys.stdin.read()`;

test('SIGTERM to a mount that was detached names who holds it and writes back, and the client ends with the last of them', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const holders: Child[] = [];
  for (const code of [...Object.values(HOLDERS), 'f = open(d + "/g", "wb", 0); f.write(b"x" * 3000000)']) {
    const holder = new Child('holder', 'python3', ['-c', SCRIPT(code), mount.dir]);
    t.after(() => holder.kill('SIGKILL'));
    holders.push(holder);
  }
  await Promise.all(holders.map((holder) => holder.line(/holds/)));
  unmountPath(mount.dir, 'lazy');
  assert.deepEqual(mountsUnder(cluster.folder), []);
  mount.child.kill('SIGTERM');
  while (holders.length > 0) {
    const named = holders
      .map(({ pid }) => pid)
      .sort((a, b) => `${a}`.localeCompare(`${b}`))
      .map((pid) => `python3 \\(${pid}\\)`);
    const text = `was detached, and is in use by ${named.join(', ')}; ends when it is free`;
    await mount.child.line(new RegExp(text));
    if (holders.length === 4) {
      await until('nothing is dirty', async () =>
        (await cluster.mountStatus()).targets.every(({ dirtyBytes }) => dirtyBytes === 0),
      );
    }
    // All but the first, then that one.
    for (const holder of holders.splice(holders.length > 1 ? 1 : 0)) {
      holder.process.stdin?.end();
      await holder.exited;
    }
  }
  assert.deepEqual(await within('the client ends', mount.child.exited), { code: 0, signal: null });
});

for (const [what, code] of Object.entries(HOLDERS)) {
  test(`SIGTERM to a mount that is held by ${what} names the holder, and unmounts when it is gone`, async (t) => {
    const cluster = await startCluster(t);
    const [mount] = cluster.mounts;
    assert.ok(mount !== undefined);
    const holder = new Child('holder', 'python3', ['-c', SCRIPT(code), mount.dir]);
    t.after(() => holder.kill('SIGKILL'));
    await holder.line(/holds/);
    mount.child.kill('SIGTERM');
    await mount.child.line(new RegExp(`in use by python3 \\(${holder.pid}\\); unmounts when it is free`));
    assert.deepEqual(mountsUnder(cluster.folder), [mount.dir]);
    holder.process.stdin?.end();
    await holder.exited;
    assert.deepEqual(await within('the client ends', mount.child.exited), { code: 0, signal: null });
    assert.deepEqual(mountsUnder(cluster.folder), []);
  });
}

test('what is dirty in a busy mount is written back when SIGTERM comes', async (t) => {
  const cluster = await startCluster(t);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const script =
    'import sys\nf = open(sys.argv[1] + "/f", "wb", 0)\nf.write(b"x" * 3000000)\nprint("holds", flush=True)\nsys.stdin.read()';
  const holder = new Child('holder', 'python3', ['-c', script, mount.dir]);
  t.after(() => holder.kill('SIGKILL'));
  await holder.line(/holds/);
  mount.child.kill('SIGTERM');
  await mount.child.line(/in use by/);
  await until('nothing is dirty', async () =>
    (await cluster.mountStatus()).targets.every(({ dirtyBytes }) => dirtyBytes === 0),
  );
  holder.process.stdin?.end();
  await holder.exited;
  assert.deepEqual(await within('the client ends', mount.child.exited), { code: 0, signal: null });
});
