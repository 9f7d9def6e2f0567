/** Names written back on real mounts: what others see, what a crash of either side leaves, and what a drain costs. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { O, SyscallError } from '../fixtures/agent.js';
import { type Cluster, type Mount, startCluster } from '../fixtures/cluster.js';
import { until } from '../fixtures/until.js';

const run = promisify(execFile);

/** The client process dies, and the server is told that it will not come back. */
async function killClient(cluster: Cluster, mount: Mount | undefined): Promise<void> {
  assert.ok(mount !== undefined);
  const { uuid } = await cluster.mountStatus(mount);
  mount.child.kill('SIGKILL');
  await mount.child.exited;
  cluster.abortMount(mount);
  await cluster.cliOk(['evict', cluster.address, uuid]);
}

/** What a call may fail with when another machine has been faster. */
async function orOvertaken(call: Promise<unknown>, ...codes: string[]): Promise<void> {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof SyscallError) || !codes.includes(error.code)) throw error;
  }
}

test('one machine makes, changes and removes names, another one lists, opens, links and removes them', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [a, b] = [cluster.agent(0), cluster.agent(1)];
  await a.mkdir('d');
  let isOver = false;
  const owner = async (): Promise<void> => {
    for (let at = 0; at < 300; at++) {
      await a.writeFile(`d/tmp${at}`, `content ${at}`);
      await orOvertaken(a.call('chmod', { path: `d/tmp${at}`, mode: 0o640 }), 'ENOENT');
      await orOvertaken(a.rename(`d/tmp${at}`, `d/f${at % 50}`), 'ENOENT');
      if (at % 5 === 0) await orOvertaken(a.unlink(`d/f${at % 50}`), 'ENOENT');
      if (at % 40 === 0) await a.mkdir(`d/sub${at}`);
    }
    isOver = true;
  };
  const visitor = async (): Promise<void> => {
    for (let at = 0; !isOver; at++) {
      const names = await b.list('d');
      const name = names[at % Math.max(1, names.length)];
      if (name === undefined || name.startsWith('sub')) continue;
      if (at % 4 === 0) await orOvertaken(b.unlink(`d/${name}`), 'ENOENT');
      else if (at % 4 === 1) await orOvertaken(b.link(`d/${name}`, `link${at}`), 'ENOENT');
      else if (at % 4 === 2) {
        const text = await b.readFile(`d/${name}`).catch((error: SyscallError) => error.code);
        // A file under its own name is whole. Under its first name it may be looked at before it was written.
        assert.match(text, name.startsWith('f') ? /^(content \d+|ENOENT)$/ : /^(content \d+|ENOENT|)$/);
      } else await orOvertaken(b.lstat(`d/${name}`), 'ENOENT');
    }
  };
  await Promise.all([owner(), visitor()]);
  const [mine, theirs] = [await a.list('d'), await b.list('d')];
  assert.deepEqual(mine.sort(), theirs.sort());
  assert.equal(theirs.filter((name) => name.startsWith('sub')).length, 8);
  for (const name of theirs) {
    const [one, other] = [await a.lstat(`d/${name}`), await b.lstat(`d/${name}`)];
    assert.deepEqual(
      [one.ino, one.mode, one.nlink, one.size],
      [other.ino, other.mode, other.nlink, other.size],
    );
  }
});

for (const what of ['file', 'directory'] as const) {
  test(`after fsync of a ${what}, what was done before is there although both sides are killed`, async (t) => {
    const cluster = await startCluster(t, { mounts: 1 });
    const a = cluster.agent();
    await a.mkdir('d');
    for (let at = 0; at < 100; at++) await a.writeFile(`d/f${at}`, `${at}`);
    const fd = await a.open(what === 'file' ? 'd/f99' : 'd', O.RDONLY);
    await a.fsync(fd);
    await killClient(cluster, cluster.mounts[0]);
    await cluster.crash();
    const witness = await cluster.addMount();
    const names = (await run('ls', [join(witness.dir, 'd')])).stdout.trim().split('\n');
    assert.equal(names.length, 100);
    if (what === 'file') assert.equal((await run('cat', [join(witness.dir, 'd', 'f99')])).stdout, '99');
  });
}

test('a client that is killed leaves a prefix of what its programs did', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [mount] = cluster.mounts;
  const dir = join(mount?.dir ?? '', 'd');
  const script =
    'mkdir "$0"; i=0; while printf "%s\\n" $i > "$0/tmp" && mv "$0/tmp" "$0/$i"; do i=$((i+1)); done';
  const busy = run('bash', ['-c', script, dir]).catch(() => undefined);
  const b = cluster.agent(1);
  await until('it is at work', async () => (await b.list('d').catch(() => [])).length > 20);
  await killClient(cluster, mount);
  await busy;
  const names = (await b.list('d')).filter((name) => name !== 'tmp');
  const last = Math.max(...names.map(Number));
  assert.equal(names.length, last + 1, 'no number is missing');
  for (const name of names) assert.equal(await b.readFile(`d/${name}`), `${name}\n`);
});

test('programs that unpack, link and remove go on through an upgrade', async (t) => {
  const cluster = await startCluster(t, { mounts: 1 });
  const dir = cluster.mounts[0]?.dir ?? '';
  const script = `set -e
    cd "$0"; mkdir src; for i in $(seq 200); do mkdir -p src/d$((i % 7)); echo "file $i" > src/d$((i % 7))/f$i; done
    tar cf src.tar src
    for round in 1 2 3 4; do rm -rf out; mkdir out; tar xf src.tar -C out; diff -r src out/src; done
    rm -rf out/src/d3; cp -a src copy; diff -r src copy; mv copy moved; ls moved | wc -l`;
  const working = run('bash', ['-c', script, dir]);
  await cluster.upgrade();
  await cluster.upgrade();
  assert.equal((await working).stdout.trim(), '7');
});

test('with sync-metadata a name is at the server when its call returns', async (t) => {
  const cluster = await startCluster(t, { mounts: 1, mountOptions: ['sync-metadata'] });
  const a = cluster.agent();
  await a.mkdir('d');
  for (let at = 0; at < 20; at++) await a.writeFile(`d/f${at}`, '');
  await killClient(cluster, cluster.mounts[0]);
  const witness = await cluster.addMount();
  assert.equal((await run('ls', [join(witness.dir, 'd')])).stdout.trim().split('\n').length, 20);
});

test('one machine changes and removes an old tree, another one lists it and has files of it open', async (t) => {
  const cluster = await startCluster(t, { mounts: 3 });
  const [maker, a, b] = [cluster.agent(0), cluster.agent(1), cluster.agent(2)];
  const files = 60;
  await maker.mkdir('tree');
  for (const d of ['d0', 'd1', 'd2', 'd3']) {
    await maker.mkdir(`tree/${d}`);
    for (let at = 0; at < files; at++) await maker.writeFile(`tree/${d}/f${at}`, `${d} ${at}`);
  }
  const open = await Promise.all([10, 20, 30].map((at) => b.open(`tree/d0/f${at}`, O.RDONLY)));
  const dir = join(cluster.mounts[1]?.dir ?? '', 'tree');
  await run('bash', ['-c', 'chmod 604 "$0"/d0/* && mkdir "$0"/new && mv "$0"/d1/* "$0"/new', dir]);
  for (const fd of open) assert.equal((await b.fstat(fd)).mode & 0o777, 0o604);
  assert.deepEqual(
    [(await b.list('tree/d1')).length, (await b.list('tree/new')).length, await b.readFile('tree/new/f59')],
    [0, files, 'd1 59'],
  );
  const removing = run('rm', ['-r', join(dir, 'd0'), join(dir, 'd2'), join(dir, 'd3')]);
  // Meanwhile, and until it is gone.
  while ((await b.list('tree')).length > 2) await orOvertaken(b.list('tree/d2'), 'ENOENT');
  await removing;
  for (const fd of open) assert.equal((await b.fstat(fd)).nlink, 0);
  assert.deepEqual((await a.list('tree')).sort(), ['d1', 'new']);
  await run('rm', ['-r', join(cluster.mounts[2]?.dir ?? '', 'tree')]);
  assert.deepEqual(await maker.list('.'), []);
});
