/** SIGTERM to a client whose mount is busy. */

import assert from 'node:assert/strict';
import test from 'node:test';
import { Child } from '../fixtures/child.js';
import { startCluster } from '../fixtures/cluster.js';
import { mountsUnder } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

/** Ways to hold a mount; each says that it does, and ends with its stdin. */
const HOLDERS = {
  'an open file': 'f = open(d + "/f", "w")',
  'a current directory': 'os.chdir(d)',
  'a mapping alone':
    'f = open(d + "/f", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); f.close()',
};

for (const [what, code] of Object.entries(HOLDERS)) {
  test(`SIGTERM to a mount that is held by ${what} names the holder, and unmounts when it is gone`, async (t) => {
    const cluster = await startCluster(t);
    const [mount] = cluster.mounts;
    assert.ok(mount !== undefined);
    const script = `import sys, os, mmap\nd = sys.argv[1]\n${code}\nprint("holds", flush=True)\nsys.stdin.read()`;
    const holder = new Child('holder', 'python3', ['-c', script, mount.dir]);
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
